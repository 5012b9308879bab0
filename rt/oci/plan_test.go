package oci

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlan needs no root: a plan only looks.
func TestPlan(t *testing.T) {
	dir := t.TempDir()
	require.False(t, IsBundle(dir))
	const config = `{"ociVersion":"1.2.0","process":{"args":["true"],"cwd":"/","user":{}},"root":{"path":"rootfs"},
		"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644))
	require.True(t, IsBundle(dir))
	var text, list bytes.Buffer
	require.NoError(t, Plan(&text, dir, false))
	require.Contains(t, text.String(), `mount("`+dir+`/rootfs"`)
	require.Contains(t, text.String(), `execve(`)
	require.NoError(t, Plan(&list, dir, true))
	require.True(t, json.Valid(list.Bytes()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644))
	require.ErrorContains(t, Plan(&text, dir, false), "config.json")
}
