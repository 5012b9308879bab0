package client

import (
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
