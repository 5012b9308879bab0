package command

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type breaking struct{}

func (breaking) Read(p []byte) (int, error) {
	return copy(p, "half"), errors.New("the stream broke off")
}

// A stream that breaks off leaves an old file as it was, and nothing else.
func TestOutput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	a := &App{Out: &bytes.Buffer{}}
	require.NoError(t, a.Output(file, strings.NewReader("old")))
	require.Error(t, a.Output(file, breaking{}))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	es, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, es, 1)
	require.NoError(t, a.Output("", strings.NewReader("out")))
	require.Equal(t, "out", a.Out.(*bytes.Buffer).String())
	require.NoError(t, a.Output("/dev/null", strings.NewReader("out")))
	_, err = os.Stat("/dev/null")
	require.NoError(t, err)
}
