package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// joinPidNamespace looks at a PID namespace that the spec joins by path. The caller's own is left out of the spec: it
// is where the process is anyway. For another it returns the cgroups of those who live in it, for sandbox to freeze.
func joinPidNamespace(spec *specs.Spec) (freeze []string, err error) {
	i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace && n.Path != ""
	})
	if i < 0 {
		return nil, nil
	}
	var there, here unix.Stat_t
	path := spec.Linux.Namespaces[i].Path
	if err := unix.Stat(path, &there); err != nil {
		return nil, fmt.Errorf("linux.namespaces: pid namespace %s: %w", path, err)
	}
	if err := unix.Stat("/proc/self/ns/pid", &here); err != nil {
		return nil, fmt.Errorf("stat pid namespace: %w", err)
	}
	if there.Ino == here.Ino && there.Dev == here.Dev {
		spec.Linux.Namespaces = slices.Delete(spec.Linux.Namespaces, i, i+1)
		return nil, nil
	}
	if freeze, err = dwellers(there.Ino); err != nil {
		return nil, fmt.Errorf("linux.namespaces: join pid namespace %s: %w", path, err)
	}
	return freeze, nil
}

// neighbours returns the cgroups of the other containers in the PID namespace of a running one.
func (r *record) neighbours() ([]string, error) {
	var there, here unix.Stat_t
	if err := unix.Stat("/proc/"+strconv.Itoa(r.Pid)+"/ns/pid", &there); err != nil {
		return nil, errNotRunning
	}
	if err := unix.Stat("/proc/self/ns/pid", &here); err != nil {
		return nil, fmt.Errorf("stat pid namespace: %w", err)
	}
	if there.Ino == here.Ino {
		return nil, nil
	}
	out, err := dwellers(there.Ino)
	return slices.DeleteFunc(out, func(path string) bool {
		return path == r.Cgroup || strings.HasPrefix(path, r.Cgroup+"/")
	}), err
}

// dwellers returns the cgroups of the containers' processes in the PID namespace with this inode.
func dwellers(ino uint64) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	own, err := freezerPath("self")
	if err != nil {
		return nil, err
	}
	out := []string{} // not nil: it is known who lives there
	for _, e := range entries {
		var st unix.Stat_t
		if _, err := strconv.Atoi(e.Name()); err != nil || unix.Stat("/proc/"+e.Name()+"/ns/pid", &st) != nil || st.Ino != ino {
			continue
		}
		path, err := freezerPath(e.Name())
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		if !around(own, path) && !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	return out, nil
}

// around tells whether a cgroup is this process's own or above it. Who is in there is the machine's, or this process's
// caller, and no container: nobody to be careful about, and nobody who could be frozen without this process.
func around(own, path string) bool {
	return path == "/" || path == own || strings.HasPrefix(own, path+"/")
}

// freezerPath returns the cgroup of a process that can be frozen: in the freezer's hierarchy, or v2's.
func freezerPath(pid string) (string, error) {
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return "", err
	}
	unified := ""
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // cgroups(7)
		if len(f) != 3 {
			continue
		}
		if slices.Contains(strings.Split(f[1], ","), "freezer") {
			return f[2], nil
		}
		if f[0] == "0" {
			unified = f[2]
		}
	}
	if unified == "" {
		return "", errors.New("no cgroup that can be frozen (kernel option CONFIG_CGROUP_FREEZER)")
	}
	return unified, nil
}

const sealedName = "coble-sealed"

// sealed makes sure that this program runs from a sealed copy in memory, and executes that if need be: a process which
// is made here will wait where others, who may hold CAP_SYS_PTRACE, see it, and could open its executable for writing
// later on (CVE-2019-5736). dir is the folder to start again in.
func sealed(dir string) error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("read own name: %w", err)
	}
	if strings.HasPrefix(exe, "/memfd:"+sealedName) {
		return nil
	}
	fd, err := sealedCopy()
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	return fmt.Errorf("execute a copy of this program: %w", unix.Exec("/proc/self/fd/"+strconv.Itoa(fd), os.Args, os.Environ()))
}

func sealedCopy() (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(sealedName, flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(sealedName, flags)
	}
	if err != nil {
		return -1, err
	}
	copy := os.NewFile(uintptr(fd), sealedName)
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	defer self.Close()
	if _, err := io.Copy(copy, self); err != nil {
		return -1, err
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(copy.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return -1, err
	}
	keep, err := unix.FcntlInt(copy.Fd(), unix.F_DUPFD_CLOEXEC, 3) // copy's is closed when it is collected
	return keep, err
}

// listenFDs returns how many descriptors from 3 on the program gets: those of socket activation, which is named in its
// environment then (sd_listen_fds(3)), and n more. All must be open.
func listenFDs(n int, p *specs.Process) (int, error) {
	if s := os.Getenv("LISTEN_FDS"); s != "" {
		listen, err := strconv.Atoi(s)
		if err != nil || listen < 0 {
			return 0, fmt.Errorf("LISTEN_FDS: %q is no number", s)
		}
		n += listen
		p.Env = append(p.Env, "LISTEN_FDS="+s, "LISTEN_PID=1")
	}
	if n < 0 {
		return 0, fmt.Errorf("preserve-fds: %d is below 0", n)
	}
	for fd := 3; fd < 3+n; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 { // it is of this program, not the caller's
			err = unix.EBADF
		}
		if err != nil {
			return 0, fmt.Errorf("preserve-fds: please check that file descriptor %d exists: %w", fd, err)
		}
	}
	return n, nil
}
