package whole

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Dress gives dst the owner and mode of st and the attributes of src.
func Dress(src, dst *os.File, st *unix.Stat_t) error {
	if err := unix.Fchown(int(dst.Fd()), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(dst.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	return copyAttrs(src, dst)
}

// copyAttrs copies what archives may have brought: user.* and
// security.capability.
func copyAttrs(src, dst *os.File) error {
	n, err := unix.Flistxattr(int(src.Fd()), nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	list := make([]byte, n)
	if n, err = unix.Flistxattr(int(src.Fd()), list); err != nil {
		return err
	}
	for _, name := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		value := make([]byte, 64<<10) // the most that Linux allows
		n, err := unix.Fgetxattr(int(src.Fd()), name, value)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(int(dst.Fd()), name, value[:n], 0); err != nil {
			return err
		}
	}
	return nil
}
