//go:build arm || 386

package spawn

import "golang.org/x/sys/unix"

// identity returns the numbers of the calls that take user and group numbers of 32 bits: here the newer ones.
func identity(name string) (uintptr, bool) {
	switch name {
	case "fchownat":
		return unix.SYS_FCHOWNAT, true
	case "setgroups":
		return unix.SYS_SETGROUPS32, true
	case "setresgid":
		return unix.SYS_SETRESGID32, true
	case "setresuid":
		return unix.SYS_SETRESUID32, true
	default:
		return 0, false
	}
}
