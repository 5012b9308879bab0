package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/qemu-tests/testmodules"
)

// testsScript runs the test binaries that /tests/list names.
func testsScript(conn *notify.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmdline, _ := os.ReadFile("/proc/cmdline")
	without, _ := boot.Param(string(cmdline), "test.without")
	_, err := boot.LoadModules(slices.DeleteFunc(testmodules.All(), func(m string) bool {
		return m == testmodules.Late || slices.ContainsFunc(strings.Split(without, ","), func(w string) bool { return w != "" && strings.HasPrefix(m, w) })
	}))
	disk, findErr := boot.FindDisk(ctx, "LABEL=tests")
	err = errors.Join(err, boot.Hostname("tester"), boot.Loopback(), findErr)
	if err == nil {
		err = boot.MountData(disk, "/tmp", "ext4", "")
	}
	if err == nil {
		err = os.Chmod("/tmp", os.ModeSticky|0o777)
	}
	if strings.Contains(string(cmdline), "test.cgroup=v1") {
		err = errors.Join(err, mountV1())
	}
	if err != nil {
		fmt.Println("testengine:", err)
	}
	list, err := os.ReadFile("/tests/list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		pkg, run, _ := strings.Cut(strings.TrimSpace(line), " ")
		fmt.Printf("tests of %s begin\n", pkg)
		if pkg == "./netcfg/links" {
			if _, err := boot.LoadModules([]string{testmodules.Late + " max_bonds=0"}); err != nil {
				fmt.Println("testengine:", err)
			}
		}
		fmt.Printf("tests of %s end: %s\n", pkg, runTests(path.Join("/tests", pkg), run))
	}
	if err := conn.Send("SHUTDOWN=poweroff"); err != nil {
		return err
	}
	<-term
	return conn.Send("STOPPING=1")
}

// mountV1 gives the controllers to cgroup v1, one hierarchy each but for cpu and cpuacct, and puts v2 beside them. It
// must come before anything uses a controller of v2.
func mountV1() error {
	const top = "/sys/fs/cgroup"
	if err := unix.Unmount(top, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", top, err)
	}
	if err := unix.Mount("tmpfs", top, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", top, err)
	}
	for _, name := range []string{
		"cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio", "unified",
	} {
		dir, fstype, data := path.Join(top, name), "cgroup", name
		if name == "unified" {
			fstype, data = "cgroup2", ""
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", dir, fstype, 0, data); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", name, err)
		}
	}
	return nil
}

// runTests runs a folder's tests: all, or those that run picks, or the kernel
// command line.
func runTests(dir, run string) string {
	cmd := exec.Command("./test.bin", "-test.v", "-test.timeout=20m")
	if cmdline, err := os.ReadFile("/proc/cmdline"); err == nil {
		if only, is := boot.Param(string(cmdline), "test.run"); is {
			run = only
		}
	}
	if run != "" {
		cmd.Args = append(cmd.Args, "-test.run="+run)
	}
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/bin:/sbin", "HOME=/root", "TMPDIR=/tmp", "TERM=dumb", "COBLE_VM=1"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return err.Error()
	}
	return "ok"
}
