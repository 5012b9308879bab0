// Package caps knows the names and numbers of Linux capabilities (capabilities(7)). It changes no
// process.
package caps

import (
	"fmt"
	"math/bits"
	"strings"

	"golang.org/x/sys/unix"
)

// Set is a set of capabilities, bit N being capability number N.
type Set uint64

// Last is the highest capability number that this package can name (CAP_CHECKPOINT_RESTORE, Linux 5.9).
const Last = 40

var names = [Last + 1]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// Name returns the name of capability n, such as "CAP_CHOWN", or "" if it has none here.
func Name(n int) string {
	if n < 0 || n >= len(names) {
		return ""
	}
	return "CAP_" + names[n]
}

// Number returns the number of a capability. The name may lack its CAP_ and be in lower case.
func Number(name string) (int, error) {
	want := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	for i, n := range names {
		if n == want {
			return i, nil
		}
	}
	return 0, fmt.Errorf("unknown capability %q", name)
}

// Parse makes a set of names. "ALL" is every capability that has a name.
func Parse(list []string) (Set, error) {
	var s Set
	for _, name := range list {
		if strings.EqualFold(name, "ALL") {
			s |= All()
			continue
		}
		n, err := Number(name)
		if err != nil {
			return 0, err
		}
		s |= 1 << n
	}
	return s, nil
}

// All returns every capability that has a name here.
func All() Set { return 1<<(Last+1) - 1 }

// Has tells whether capability n is in s.
func (s Set) Has(n int) bool { return n >= 0 && n < 64 && s>>n&1 == 1 }

// Len returns how many capabilities are in s.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Names lists s by number, each with its CAP_; numbers without a name are left out.
func (s Set) Names() []string {
	var out []string
	for i, n := range names {
		if s.Has(i) {
			out = append(out, "CAP_"+n)
		}
	}
	return out
}

// Permitted returns the capabilities that this process may give to others: what "all" can mean where it was itself
// started with fewer than all.
func Permitted() (Set, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("read own capabilities: %w", err)
	}
	return Set(data[0].Permitted) | Set(data[1].Permitted)<<32, nil
}

// Default returns the names of the fourteen capabilities that Docker gives a container.
func Default() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}
