package vm

import (
	"os"
	"runtime"
	"strings"
)

// HasKVM tells whether machines of arch run at full speed here: /dev/kvm can be
// opened, the processor has the instructions for it (some clouds offer a KVM
// without them, which runs only kernels made for it), and COBLE_ACCEL is not
// "tcg".
func HasKVM(arch string) bool {
	if os.Getenv("COBLE_ACCEL") == "tcg" || arch != runtime.GOARCH {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	if arch != "amd64" {
		return true
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	for _, word := range strings.Fields(string(info)) {
		if word == "vmx" || word == "svm" {
			return err == nil
		}
	}
	return false
}

func accel(arch, cpu string, cpus int) []string {
	if HasKVM(arch) {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	// One thread for all processors: with a thread each, QEMU (7.2) lets one
	// processor run a stale translation of code that another has just patched, and
	// the kernel panics in the middle of a static key ("Oops: int3", seen once in
	// __alloc_pages of 6.12).
	thread := "multi"
	if cpus > 1 {
		thread = "single"
	}
	return []string{"-accel", "tcg,thread=" + thread, "-cpu", cpu}
}
