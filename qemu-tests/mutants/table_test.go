package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
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
