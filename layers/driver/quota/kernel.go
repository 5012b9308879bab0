package quota

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Names and layouts are those of linux/quota.h, linux/dqblk_xfs.h and
// linux/fs.h.
const (
	qGetQuota    = 0x800007 // Q_GETQUOTA
	qSetQuota    = 0x800008 // Q_SETQUOTA
	qXGetQStat   = 0x5805   // Q_XGETQSTAT, which every file system with quotas answers
	prjQuota     = 2        // PRJQUOTA
	limitsValid  = 1        // QIF_BLIMITS
	blockSize    = 1024     // QIF_DQBLKSIZE, bytes
	projEnforced = 1 << 5   // FS_QUOTA_PDQ_ENFD
	projInherit  = 0x200    // FS_XFLAG_PROJINHERIT
	fsxattrSize  = 28
)

// dqblk is struct if_dqblk; space is in bytes, limits are in blockSize.
type dqblk struct {
	bhardlimit, bsoftlimit, curspace  uint64
	ihardlimit, isoftlimit, curinodes uint64
	btime, itime                      uint64
	valid, _                          uint32
}

func (q dqblk) unused() bool {
	return q.bhardlimit|q.bsoftlimit|q.curspace|q.ihardlimit|q.isoftlimit|q.curinodes == 0
}

// fsxattr is struct fsxattr.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

// quotactl calls by descriptor (quotactl_fd(2), Linux 5.14) or by the path of
// the block device.
func quotactl(f *os.File, cmd uint, id uint32, arg unsafe.Pointer) error {
	op := uintptr(cmd<<8 | prjQuota)
	_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), op, uintptr(id), uintptr(arg), 0, 0)
	if e == unix.ENOSYS {
		dev, err := device(f)
		if err != nil {
			return err
		}
		p, err := unix.BytePtrFromString(dev)
		if err != nil {
			return err
		}
		_, _, e = unix.Syscall6(unix.SYS_QUOTACTL, op, uintptr(unsafe.Pointer(p)), uintptr(id), uintptr(arg), 0, 0)
		runtime.KeepAlive(p)
	}
	if e != 0 {
		return e
	}
	return nil
}

// device is the path of the block device that a file lies on.
func device(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	raw, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/uevent", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err != nil {
		return "", fmt.Errorf("%w: it lies on no block device: %w", ErrUnsupported, err)
	}
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name, nil
		}
	}
	return "", fmt.Errorf("%w: its block device has no name", ErrUnsupported)
}

// enforced fails with ErrUnsupported unless limits of projects hold on the
// file system of f.
func enforced(f *os.File) error {
	var stat [128]byte // struct fs_quota_stat has 80
	err := quotactl(f, qXGetQStat, 0, unsafe.Pointer(&stat))
	if err == nil && *(*uint16)(unsafe.Pointer(&stat[2]))&projEnforced != 0 {
		return nil
	}
	if err == nil {
		err = errors.New("limits are not switched on")
	}
	return fmt.Errorf("%w on the file system of %s (%w): make it xfs mounted with the option prjquota, or ext4 with the features project and quota (tune2fs -O project,quota), mounted likewise; the kernel needs CONFIG_XFS_QUOTA or CONFIG_QFMT_V2", ErrUnsupported, f.Name(), err)
}

// get reads what is counted for a number. xfs knows only numbers that were
// used.
func get(f *os.File, id uint32) (q dqblk, err error) {
	err = quotactl(f, qGetQuota, id, unsafe.Pointer(&q))
	if err == unix.ENOENT {
		return dqblk{}, nil
	}
	if err != nil {
		return q, fmt.Errorf("read quota of project %d (Q_GETQUOTA): %w", id, err)
	}
	return q, nil
}

func setLimit(f *os.File, id uint32, bytes int64) error {
	q := dqblk{bhardlimit: (uint64(bytes) + blockSize - 1) / blockSize, valid: limitsValid}
	if err := quotactl(f, qSetQuota, id, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("set limit of project %d (Q_SETQUOTA): %w", id, err)
	}
	return nil
}

// request is _IOC('X', …) of asm-generic/ioctl.h, or of MIPS.
func request(write bool, nr uint) uint {
	dir := uint(2) << 30
	mips := strings.HasPrefix(runtime.GOARCH, "mips")
	switch {
	case write && mips:
		dir = 4 << 29
	case mips:
		dir = 2 << 29
	case write:
		dir = 1 << 30
	}
	return dir | fsxattrSize<<16 | 'X'<<8 | nr
}

// getAttr is FS_IOC_FSGETXATTR.
func getAttr(f *os.File) (a fsxattr, err error) {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request(false, 31)), uintptr(unsafe.Pointer(&a)))
	if e == unix.ENOTTY || e == unix.EOPNOTSUPP || e == unix.ENOSYS {
		return a, fmt.Errorf("%w on the file system of %s: %w", ErrUnsupported, f.Name(), e)
	}
	if e != 0 {
		return a, fmt.Errorf("read project of %s (FS_IOC_FSGETXATTR): %w", f.Name(), e)
	}
	return a, nil
}

// setAttr is FS_IOC_FSSETXATTR.
func setAttr(f *os.File, a fsxattr) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request(true, 32)), uintptr(unsafe.Pointer(&a)))
	if e != 0 {
		return fmt.Errorf("set project of %s (FS_IOC_FSSETXATTR): %w", f.Name(), e)
	}
	return nil
}
