// Command testengine is a whole appliance for tests of process 1: started as
// /init it is the keeper, and as the keeper's engine it goes through a script:
//
//	first life:   give a memfd into keeping, start a child that becomes an
//	              orphan, kill itself
//	second life:  find the memfd and the orphan, end it, get its exit from the
//	              keeper, ask for poweroff
//
// With test.script=boot on the kernel command line it goes through the steps of
// init/boot instead (see bootScript), with
// test.script=tests through test binaries (see testsScript). Every step prints one line that a test outside waits for.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/init/keeper"
	"github.com/coble-os/coble/init/notify"
)

var term = make(chan os.Signal, 1)

func main() {
	switch {
	case os.Getpid() == 1:
		keeper.Run(keeper.Config{
			RunDir: "/run/coble", Engine: []string{"/proc/self/exe", "engine"}, Init: true,
		})
	case len(os.Args) > 1 && os.Args[1] == "orphan":
		time.Sleep(time.Hour)
	default:
		if err := engine(); err != nil {
			fmt.Println("testengine:", err)
			os.Exit(1)
		}
	}
}

func engine() error {
	conn, files, err := notify.Open()
	if err != nil {
		return err
	}
	signal.Notify(term, unix.SIGTERM)
	if err := conn.Send("READY=1", "STATUS=testing"); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	switch script, _ := boot.Param(string(cmdline), "test.script"); script {
	case "boot":
		return bootScript(conn)
	case "tests":
		return testsScript(conn)
	}
	if len(files) == 0 {
		return firstLife(conn)
	}
	if err := secondLife(conn, files); err != nil {
		return err
	}
	<-term
	fmt.Println("testengine: told to stop")
	return conn.Send("STOPPING=1")
}

func firstLife(conn *notify.Conn) error {
	fmt.Println("testengine: first life, kernel", release())
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"orphan", "orphan"},
		&syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		return fmt.Errorf("start orphan: %w", err)
	}
	fd, err := unix.MemfdCreate("keepsake", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(fd, []byte(strconv.Itoa(pid)), 0); err != nil {
		return err
	}
	if err := conn.Store("keepsake", fd); err != nil {
		return err
	}
	if err := conn.Barrier(time.Minute); err != nil {
		return err
	}
	return unix.Kill(os.Getpid(), unix.SIGKILL)
}

func secondLife(conn *notify.Conn, files []notify.File) error {
	buf := make([]byte, 20)
	n, err := unix.Pread(files[0].FD, buf, 0)
	if err != nil {
		return err
	}
	orphan, err := strconv.Atoi(string(buf[:n]))
	if err != nil {
		return err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", orphan))
	if err != nil {
		return fmt.Errorf("the orphan is gone: %w", err)
	}
	fields := strings.Fields(string(stat))
	fmt.Println("testengine: second life, the orphan's parent is", fields[3])
	if err := unix.Kill(orphan, unix.SIGTERM); err != nil {
		return err
	}
	for {
		e, err := conn.Exit.Next()
		if err != nil {
			return err
		}
		if e.PID == orphan {
			fmt.Printf("testengine: orphan ended, start time right: %v, signal: %v\n",
				strconv.FormatUint(e.Start, 10) == fields[21], e.Status.Signal())
			return conn.Send("SHUTDOWN=poweroff")
		}
	}
}

func release() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(data))
}
