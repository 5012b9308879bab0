package client

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOneWord(t *testing.T) {
	for in, want := range map[string]string{
		"image ls -q": "images|-q", "image list": "images", "image rm x": "rmi|x", "image save x": "save|x", "container ls -a": "ps|-a", "container diff c": "diff|c",
		"image prune -a": "image prune|-a", "system df -v": "system df|-v", "system info": "info", "image": "image", "run image ls": "run|image|ls", "image nonsense": "nonsense",
	} {
		require.Equal(t, strings.Split(want, "|"), oneWord(strings.Fields(in)), in)
	}
	for _, c := range commands() {
		require.NotNil(t, find(c.name))
		require.NotEmpty(t, c.help, c.name)
	}
}

type breaking struct{}

func (breaking) Read(p []byte) (int, error) {
	return copy(p, "half"), errors.New("the stream broke off")
}

// A stream that breaks off leaves an old file as it was, and nothing else.
func TestOutput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	a := &app{out: &bytes.Buffer{}}
	require.NoError(t, a.output(file, strings.NewReader("old")))
	require.Error(t, a.output(file, breaking{}))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	es, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, es, 1)
	require.NoError(t, a.output("", strings.NewReader("out")))
	require.Equal(t, "out", a.out.(*bytes.Buffer).String())
	require.NoError(t, a.output("/dev/null", strings.NewReader("out")))
	_, err = os.Stat("/dev/null")
	require.NoError(t, err)
}
