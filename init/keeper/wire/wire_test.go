package wire

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Message{
		"":                            {},
		"READY=1\nSTATUS=up\n":        {Ready: true, PassOn: []string{"READY=1", "STATUS=up"}},
		"READY=0\nSTOPPING=1":         {Stopping: true, PassOn: []string{"READY=0", "STOPPING=1"}},
		"FDSTORE=1\nFDNAME=web-out":   {Store: true, Name: "web-out"},
		"FDSTOREREMOVE=1\nFDNAME=a":   {Remove: true, Name: "a"},
		"FORGET=1 2\nFORGET=3 4":      {Forget: []Exit{{1, 2}, {3, 4}}},
		"SHUTDOWN=halt":               {Shutdown: "halt"},
		"REEXEC=1\nX_LATER=1":         {Reexec: true},
		"EXTEND_TIMEOUT_USEC=1500000": {Extend: 1500 * time.Millisecond, PassOn: []string{"EXTEND_TIMEOUT_USEC=1500000"}},
		"EXTEND_TIMEOUT_USEC=9223372036854775807": {
			Extend: MaxExtend, PassOn: []string{"EXTEND_TIMEOUT_USEC=9223372036854775807"},
		},
	} {
		got, err := Parse([]byte(in))
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, bad := range []string{
		"READY", "\x00", "READY=1\x00", "FDSTORE=1", "FDSTORE=1\nFDNAME=", "FDSTORE=1\nFDNAME=a:b", "FDNAME=keeper",
		"FDNAME=a b", "FDNAME=é", "FDNAME=" + strings.Repeat("x", 256), "FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a",
		"SHUTDOWN=", "SHUTDOWN=now", "FORGET=1", "FORGET=x 1", "FORGET=1 -1", "EXTEND_TIMEOUT_USEC=-1", "EXTEND_TIMEOUT_USEC=x",
	} {
		_, err := Parse([]byte(bad))
		require.Error(t, err, bad)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("FDSTORE=1\nFDNAME=a\nFORGET=1 2\nEXTEND_TIMEOUT_USEC=1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		if m.Extend < 0 || m.Extend > MaxExtend || strings.ContainsAny(m.Name, ":\n\x00") || (m.Store && m.Remove) {
			t.Fatalf("%+v out of %q", m, data)
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 1}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, fds, _ := Control(data) // the kernel writes these; still nothing may panic
		_ = fds
	})
}

func TestControl(t *testing.T) {
	oob := append(unix.UnixCredentials(&unix.Ucred{Pid: 7, Uid: 8}), unix.UnixRights(int(os.Stdin.Fd()), 5)...)
	cred, fds, err := Control(oob)
	require.NoError(t, err)
	require.Equal(t, int32(7), cred.Pid)
	require.Equal(t, []int{int(os.Stdin.Fd()), 5}, fds)
}
