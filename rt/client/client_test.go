package client

import (
	"bytes"
	"encoding/json"
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

func TestFilterQuery(t *testing.T) {
	q, err := filterQuery([]string{"label=a=b", "label=c", "until=1h"})
	require.NoError(t, err)
	require.JSONEq(t, `{"label":["a=b","c"],"until":["1h"]}`, q.Get("filters"))
	q, err = filterQuery(nil)
	require.NoError(t, err)
	require.Empty(t, q)
	for _, bad := range []string{"label", "=x", ""} {
		_, err := filterQuery([]string{bad})
		require.Error(t, err, bad)
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

func TestIPAMConfig(t *testing.T) {
	got, err := ipamConfig([]string{"10.90.0.0/24", "fd00::/64"}, []string{"10.90.0.128/25"}, []string{"fd00::7", "10.90.0.9"}, []string{"printer=10.90.0.20"})
	require.NoError(t, err)
	b, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, `[{"Subnet":"10.90.0.0/24","IPRange":"10.90.0.128/25","Gateway":"10.90.0.9","AuxiliaryAddresses":{"printer":"10.90.0.20"}},{"Subnet":"fd00::/64","Gateway":"fd00::7"}]`, string(b))
	for _, bad := range [][4][]string{
		{{"x"}}, {nil, {"10.90.0.128/25"}}, {{"10.91.0.0/24"}, nil, {"10.90.0.9"}}, {{"10.91.0.0/24"}, nil, nil, {"10.91.0.3"}},
	} {
		_, err := ipamConfig(bad[0], bad[1], bad[2], bad[3])
		require.Error(t, err, "%v", bad)
	}
}
