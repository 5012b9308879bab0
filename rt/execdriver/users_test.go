package execdriver

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/sandbox/rootfs"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n# comment:x:9:9:::\nbroken\n31:x:0:0:evil:/evil:/bin/sh\nweb:x:1000:1001:w:/srv/web:/bin/sh\n"
	group  = "root:x:0:\nstaff:x:50:web,root\n77:x:0:\nlog:x:60:other,web\nwheel:x:70:root\n"
)

func TestResolveUser(t *testing.T) {
	for _, c := range []struct {
		user   string
		add    []string
		want   rootfs.User
		failed string
	}{
		{"", nil, rootfs.User{UID: 0, GID: 0, Groups: []uint32{0, 50, 70}, Home: "/root"}, ""},
		{"root", nil, rootfs.User{UID: 0, GID: 0, Groups: []uint32{0, 50, 70}, Home: "/root"}, ""},
		{"web", nil, rootfs.User{UID: 1000, GID: 1001, Groups: []uint32{1001, 50, 60}, Home: "/srv/web"}, ""},
		{"1000", nil, rootfs.User{UID: 1000, GID: 1001, Groups: []uint32{1001, 50, 60}, Home: "/srv/web"}, ""},
		// CVE-2016-3697: an image's user called "31" is not uid 0.
		{"31", nil, rootfs.User{UID: 31, GID: 0, Groups: []uint32{0}, Home: "/"}, ""},
		{"web:77", nil, rootfs.User{UID: 1000, GID: 77, Groups: []uint32{77}, Home: "/srv/web"}, ""},
		{"web:staff", nil, rootfs.User{UID: 1000, GID: 50, Groups: []uint32{50}, Home: "/srv/web"}, ""},
		{"5000:5001", nil, rootfs.User{UID: 5000, GID: 5001, Groups: []uint32{5001}, Home: "/"}, ""},
		{"web", []string{"wheel", "8"}, rootfs.User{UID: 1000, GID: 1001, Groups: []uint32{1001, 50, 60, 70, 8}, Home: "/srv/web"}, ""},
		{"nobody", nil, rootfs.User{}, "unable to find user nobody"},
		{"-1", nil, rootfs.User{}, "unable to find user -1"},
		{"4294967296", nil, rootfs.User{}, "unable to find user"},
		{"web:nogroup", nil, rootfs.User{}, "unable to find group nogroup"},
		{"web", []string{"nogroup"}, rootfs.User{}, "unable to find group nogroup"},
	} {
		got, err := resolveUser(c.user, c.add, []byte(passwd), []byte(group))
		if c.failed != "" {
			require.ErrorContains(t, err, c.failed, c.user)
			require.Equal(t, fault.Invalid, fault.KindOf(err))
			continue
		}
		require.NoError(t, err, c.user)
		require.Equal(t, c.want, got, c.user)
	}
	_, err := resolveUser("", nil, nil, nil)
	require.NoError(t, err, "an image without any of the files")
}

func FuzzResolveUser(f *testing.F) {
	f.Add("web:staff", passwd, group)
	f.Add("31", passwd, group)
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		u, err := resolveUser(user, nil, []byte(passwd), []byte(group))
		name, _, _ := strings.Cut(user, ":")
		if id, bad := strconv.ParseUint(name, 10, 31); err == nil && bad == nil {
			require.Equal(t, uint32(id), u.UID, "a number is never another's id")
		}
	})
}

func TestExitCodes(t *testing.T) {
	for text, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`: 127, `exec: "/x": no such file or directory`: 127,
		`exec: "/x": permission denied`: 126, `exec: "/x": exec format error`: 126, `something else`: 128,
	} {
		require.Equal(t, want, ExitCode(text), text)
	}
}
