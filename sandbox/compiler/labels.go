package compiler

import (
	"errors"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// label is what a security module shall call the process from its execve on.
type label struct{ file, text, about string }

// labels returns the files of /proc/self/attr that the spec wants written (proc_pid_attr(5), and the kernel's
// Documentation/admin-guide/LSM). A label without its module is an error: nobody would enforce it.
func labels(p *specs.Process, f Facts) ([]label, error) {
	var out []label
	if p.ApparmorProfile != "" {
		if !f.AppArmor {
			return nil, errors.New("process.apparmorProfile: this kernel runs without AppArmor (CONFIG_SECURITY_APPARMOR, and lsm=apparmor on its command line)")
		}
		out = append(out, label{"self/attr/apparmor/exec", "exec " + p.ApparmorProfile, "enter AppArmor profile " + p.ApparmorProfile + ", which must have been loaded"})
	}
	if p.SelinuxLabel != "" {
		if !f.SELinux {
			return nil, errors.New("process.selinuxLabel: this kernel runs without SELinux (CONFIG_SECURITY_SELINUX, and lsm=selinux on its command line)")
		}
		out = append(out, label{"self/attr/exec", p.SelinuxLabel, "take SELinux label " + p.SelinuxLabel})
	}
	return out, nil
}

// openLabels opens the files that labels are written to, while a procfs of the child's own can still be made: it is
// attached nowhere, so that nothing in the container can have been put in its place.
func (b *builder) openLabels(p *specs.Process, f Facts) error {
	all, err := labels(p, f)
	if err != nil || len(all) == 0 {
		return err
	}
	proc := b.procfs()
	for i, l := range all {
		b.about("open %s", l.file)
		b.openat2(proc, l.file, unix.O_WRONLY|unix.O_CLOEXEC, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_MAGICLINKS, 0).
			to(b.slot(fmt.Sprintf("label.%d", i)))
	}
	b.close(proc)
	return nil
}

// writeLabels is done last of all that may execute something.
func (b *builder) writeLabels(p *specs.Process, f Facts) {
	all, _ := labels(p, f) // openLabels has seen the error
	for i, l := range all {
		b.about("%s", l.about)
		b.call("write", value(b.slot(fmt.Sprintf("label.%d", i))), str(l.text), num(len(l.text))).want(len(l.text))
	}
}

// checkMountLabel refuses a label for mounts that nobody would enforce.
func checkMountLabel(in *Input) error {
	if in.Spec.Linux.MountLabel != "" && !in.Facts.SELinux {
		return errors.New("linux.mountLabel: this kernel runs without SELinux (CONFIG_SECURITY_SELINUX, and lsm=selinux on its command line)")
	}
	if strings.ContainsAny(in.Spec.Linux.MountLabel, "\",") && strings.Contains(in.Spec.Linux.MountLabel, "\"") {
		return fmt.Errorf("linux.mountLabel: %q has a quotation mark", in.Spec.Linux.MountLabel)
	}
	return nil
}

// mountData adds the spec's label for mounts to the options of a file system whose files take one from a mount.
func mountData(s *specs.Spec, fstype, data string) string {
	if s.Linux.MountLabel == "" || fstype != "tmpfs" && fstype != "devpts" && fstype != "ramfs" {
		return data
	}
	context := fmt.Sprintf("context=%q", s.Linux.MountLabel)
	if data == "" {
		return context
	}
	return data + "," + context
}
