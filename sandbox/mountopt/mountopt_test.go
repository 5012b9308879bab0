package mountopt

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOptions(t *testing.T) {
	o, err := Parse([]string{"ro", "nosuid", "suid", "size=1m", "rshared", "rro", "rnosuid", "defaults", "rw", "relatime", "x"})
	require.NoError(t, err)
	require.Equal(t, Options{
		Set: unix.MS_RELATIME, Clear: unix.MS_NOSUID | unix.MS_RDONLY, Propagation: unix.MS_SHARED | unix.MS_REC,
		RecSet: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID, Data: "size=1m,x",
	}, o)
}

func FuzzOptions(f *testing.F) {
	f.Add("ro")
	f.Add("rro")
	f.Fuzz(func(t *testing.T, s string) { _, _ = Parse([]string{s}) })
}

func TestNames(t *testing.T) {
	got := Names()
	require.Subset(t, got, []string{"bind", "rbind", "ro", "rro", "rprivate", "tmpcopyup"})
	require.IsIncreasing(t, got)
}
