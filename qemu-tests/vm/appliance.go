package vm

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/init/mkimage"
)

// ApplianceOptions says what an appliance is made of.
type ApplianceOptions struct {
	Kernel   Kernel
	Coble    string            // path of a coble binary; empty: cmd/coble is built
	TOML     string            // content of /etc/coble/coble.toml
	Files    map[string]string // more files or folders: path inside to path here
	Modules  []string          // besides boot.DefaultModules
	DataDir  string            // what the data disk (label "data") holds at first
	Btrfs    bool              // the data disk's file system is btrfs, not ext4
	DataMiB  int               // its size, 0: 512
	WriteLog string            // see Drive.WriteLog
	Forwards []Forward
	Append   string   // added to the kernel command line
	MemMiB   int      // 0: 256
	Shell    bool     // busybox in /bin, for coble.rescue
	Tools    []string // programs of this machine in /bin
}

// Appliance is a built initramfs and data disk that can be booted many times.
type Appliance struct {
	Options Options
	Data    string // path of the data disk's image
}

// NewAppliance builds an appliance in a temporary folder of the test.
func NewAppliance(t testing.TB, o ApplianceOptions) *Appliance {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	a, err := MakeAppliance(ctx, t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// MakeAppliance builds an appliance in a folder.
func MakeAppliance(ctx context.Context, dir string, o ApplianceOptions) (*Appliance, error) {
	a := &Appliance{Data: filepath.Join(dir, "data.img"), Options: Options{
		Kernel: o.Kernel, Initrd: filepath.Join(dir, "initrd"), Append: o.Append,
		MemMiB: o.MemMiB, Forwards: o.Forwards,
	}}
	a.Options.Drives = []Drive{{File: a.Data, WriteLog: o.WriteLog}}
	return a, o.build(ctx, dir, a)
}

func (o ApplianceOptions) build(ctx context.Context, dir string, a *Appliance) error {
	if o.Coble == "" {
		o.Coble = filepath.Join(dir, "coble")
		if err := Build(ctx, o.Kernel.Arch, module+"/cmd/coble", o.Coble); err != nil {
			return err
		}
	}
	im := mkimage.New()
	if err := im.Copy("init", o.Coble); err != nil {
		return err
	}
	im.Symlink("bin/coble", "/init")
	im.File("etc/coble/coble.toml", 0o644, []byte(o.TOML))
	if o.Shell {
		if err := Busybox(ctx, im, o.Kernel.Arch); err != nil {
			return err
		}
	}
	if err := hostTools(ctx, im, o.Kernel.Arch, o.Tools); err != nil {
		return err
	}
	if _, err := im.Modules(o.Kernel.Modules, slices.Concat(boot.DefaultModules(), o.Modules)); err != nil {
		return err
	}
	for _, to := range slices.Sorted(maps.Keys(o.Files)) {
		if err := im.Tree(to, o.Files[to]); err != nil {
			return err
		}
	}
	if o.DataMiB == 0 {
		o.DataMiB = 512
	}
	mkfs := mkimage.Ext4
	if o.Btrfs {
		mkfs = mkimage.Btrfs
	}
	if err := mkfs(ctx, a.Data, o.DataDir, "data", o.DataMiB); err != nil {
		return err
	}
	return im.WriteFile(a.Options.Initrd)
}

// Boot boots the appliance from the disk as the last boot left it. limit is for
// a machine with KVM, see StartT. Only one boot may run at a time.
func (a *Appliance) Boot(t testing.TB, limit time.Duration) (context.Context, *VM) {
	t.Helper()
	return StartT(t, a.Options, limit)
}
