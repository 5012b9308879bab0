package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a row takes out stands once in its file, and no two rows have one name.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range table() {
		assert.False(t, seen[m.name], m.name)
		seen[m.name] = true
		b, err := os.ReadFile(filepath.Join("../..", m.file))
		assert.NoError(t, err, m.name)
		assert.Equal(t, 1, strings.Count(string(b), m.old), m.name)
		assert.NotEqual(t, m.old, m.new, m.name)
	}
}

// The copy has what git knows of, and there is none while git does not know a test.
func TestCopyTree(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	git := func(args ...string) {
		out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	git("init", "-q")
	for _, name := range []string{"a.go", "ignored.go", ".gitignore", "notes"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("ignored.go\n"), 0o600))
	}
	git("add", "a.go")
	require.NoError(t, copyTree(dir, to))
	assert.FileExists(t, filepath.Join(to, "a.go"))
	assert.NoFileExists(t, filepath.Join(to, "notes"))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", "new_test.go"), nil, 0o600))
	require.ErrorContains(t, copyTree(dir, to), "sub/new_test.go")
	git("add", "sub")
	require.NoError(t, copyTree(dir, to))
	assert.FileExists(t, filepath.Join(to, "sub", "new_test.go"))
}
