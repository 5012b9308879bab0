package main

// containers are more defences of a container's start.
func containers() []mutant {
	in := func(name, file, old, new, run string) mutant {
		return mutant{"sandbox: " + name, "sandbox/" + file, old, new, "./sandbox/...", run}
	}
	return []mutant{
		in("signals wait while a device filter is loaded", "cgroup/devices.go", "if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &old); err != nil {", "if err := error(nil); err != nil {", "TestDevicesUnderSignals"),
		in("a bind mount keeps what its source's mount forbids", "compiler/mounts.go", "o.Set |= in.Facts.SourceFlags[src] &^ o.Clear", "_ = src", "TestKeptFlags"),
		in("the working directory is inside the root (CVE-2024-21626)", "compiler/process.go", ".check(field(0, 0, 1, 0xff, '/'))", "", "TestKeptWorkingDirectory"),
		in("sysctls are written through a procfs of one's own (CVE-2025-52881)", "compiler/container.go", `proc, fd := b.procfs(), b.slot("file")`, "proc, fd := b.slot(\"proc\"), b.slot(\"file\")\n\tb.openat2(b.slot(\"root\"), \"proc\", openPath, inRoot, 0).to(proc)", "TestFakedProc"),
		in("a container sees its own groups only (CVE-2023-25809)", "compiler/cgroups.go", "\tif in.newCgroupNS() {\n\t\tb.mount(\"cgroup\", fdPath(t), \"cgroup\"", "\tif true {\n\t\tb.mount(\"cgroup\", fdPath(t), \"cgroup\"", "TestSharedCgroups"),
		in("groups are read-only (CVE-2022-0492)", "compiler/cgroups.go", `b.mount("cgroup", fdPath(t), "cgroup", o.Set, strings.Join`, `b.mount("cgroup", fdPath(t), "cgroup", 0, strings.Join`, "TestMasksAndReadonly"),
		in("sysctls of the machine's own network are refused", "spec/sysctl.go", "if host[n.Path] {", "if false {", "TestHostSysctl"),
		in("no capability is inheritable (CVE-2022-24769)", "compiler/process.go", "lo(s.permitted), lo(s.inheritable), hi(s.effective)", "lo(s.permitted), lo(s.permitted), hi(s.effective)", "TestNothingInherited"),
		in("a device of a user namespace is the one that the spec means", "compiler/nodes.go", "\tb.isDevice(node, kind, major, minor)\n", "", "TestWrongDevice"),
		in("the old root is not unmounted for all", "compiler/container.go", "p&unix.MS_SHARED != 0 {\n\t\tb.mount(\"\", str(\".\")", "p&unix.MS_SHARED != 0 {\n\t\tb.mount(\"\", str(\"/\")", "TestSharedVolume"),
		in("a child closes what is not its own before it waits", "spawn/child.go", "_, _, errno := syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, g.first, g.last, flag, 0, 0, 0)", "errno := uintptr(0)\n\t\t_ = g", "TestWaitingDescriptors"),
		{"sandbox: a child has its own descriptors before it closes any", "sandbox/spawn/assemble.go", "m.unshare = unix.CLOSE_RANGE_UNSHARE", "m.unshare = 0", "./sandbox/spawn", "TestManyDescriptors"},
	}
}
