package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/netcfg/links"
)

// bootScript goes through the steps of init/boot, counts boots on the data disk
// and answers on TCP port 7 until the power button is pressed or a client says
// poweroff.
func bootScript(conn *notify.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"modules", func(context.Context) error {
			missing, err := boot.LoadModules(boot.DefaultModules())
			fmt.Println("testengine: this kernel has no", strings.Join(missing, " "))
			return err
		}},
		{"hostname", func(context.Context) error { return boot.Hostname("tester") }},
		{"loopback", func(context.Context) error { return boot.Loopback() }},
		{"link", bringUpLink},
		{"disk", mountDisk},
		{"pivot", pivot},
	} {
		start := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("testengine: %s done in %d ms\n", step.name, time.Since(start).Milliseconds())
	}
	err := boot.PowerButton(context.Background(), func() {
		fmt.Println("testengine: power button")
		_ = conn.Send("SHUTDOWN=poweroff")
	})
	if err != nil { // the cloud kernel of arm64
		fmt.Println("testengine:", err)
	}
	return serve(conn)
}

func bringUpLink(ctx context.Context) error {
	name, err := boot.FirstLink(ctx)
	if err != nil {
		return err
	}
	l := links.Link{Name: name, DHCP4: true}
	if cmdline, _ := os.ReadFile("/proc/cmdline"); !strings.Contains(string(cmdline), "test.dhcp") {
		l = links.Link{
			Name: name, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.2.2")}, DNS: []netip.Addr{netip.MustParseAddr("10.0.2.33")},
		}
	}
	log := func(format string, args ...any) { fmt.Printf("testengine: "+format+"\n", args...) }
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	k, err := links.Start(links.Options{Resolv: "/etc/resolv.conf", Log: log})
	if err != nil {
		return err
	}
	k.Set(links.Config{Links: []links.Link{l}})
	if err := k.Await(ctx, name); err != nil {
		return err
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	fmt.Printf("testengine: %s is up, %s\n", name, strings.TrimSpace(string(resolv)))
	return err
}

// mountDisk mounts twice, which must be the same as once, and leaves a line on
// the disk.
func mountDisk(ctx context.Context) error {
	disk, err := boot.FindDisk(ctx, "LABEL=data")
	if err != nil {
		return err
	}
	for range 2 {
		if err := boot.MountData(disk, "/data", "ext4", "noatime"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile("/data/boots", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, "boot"); err != nil {
		return err
	}
	boots, err := os.ReadFile("/data/boots")
	fmt.Println("testengine: boots on this disk:", strings.Count(string(boots), "\n"))
	return err
}

// pivot proves that pivot_root(2) works from the root that the keeper made. Its
// thread is thrown away.
func pivot(context.Context) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- pivotHere()
	}()
	return <-result
}

func pivotHere() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := os.Mkdir("/tmp/old", 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot("/tmp", "/tmp/old"); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return nil
}

func serve(conn *notify.Conn) error {
	l, err := net.Listen("tcp", ":7")
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			fmt.Fprint(c, "echo "+line)
			c.Close()
			if line == "poweroff\n" {
				_ = conn.Send("SHUTDOWN=poweroff")
			}
		}
	}()
	fmt.Println("testengine: listening")
	<-term
	fmt.Println("testengine: told to stop")
	return conn.Send("STOPPING=1")
}
