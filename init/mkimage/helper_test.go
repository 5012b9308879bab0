package mkimage

import (
	"time"

	"golang.org/x/sys/unix"
)

func testTime() time.Time { return time.Unix(1, 0) }

func mkfifo(name string) error { return unix.Mkfifo(name, 0o600) }
