package main

// faces are the defences of coble runc, and of what its containers wait and hooks run by.
func faces() []mutant {
	face := func(name, file, old, new, run string) mutant {
		return mutant{"runc: " + name, "rt/oci/" + file, old, new, "./rt/oci", run}
	}
	return []mutant{
		face("who waits among others is a sealed copy (CVE-2019-5736)", "launch.go", "if l.waits && l.config.Freeze != nil {", "if false {", "TestSharedPid"),
		face("nobody enters a container that waits", "exec.go", "case s != specs.StateRunning:", "case s == specs.StateCreating:", "TestLife"),
		face("names lead nowhere else", "record.go", `if id == "" || id == "." || id == ".." || len(id) > 1024 {`, `if id == "" || len(id) > 1024 {`, "TestCheckID"),
		face("state is of one process, not of a pid", "record.go", "s := sandbox.Status(r.Pid, r.StartTime)", "s := specs.StateRunning", "TestLife"),
		{"no mount namespace: who comes later has the container's root", "sandbox/compiler/exec.go", "if in.Chroot {", "if false {", "./rt/oci", "TestWithoutMountNS"},
		{"no mount namespace: mounts go with the container", "sandbox/hostroot.go", `if root == "/" || before == 0 {`, "if true {", "./rt/oci", "WithoutMountNS"},
		{"no mount namespace: nobody else gets copies of the mounts", "sandbox/compiler/container.go", `"", unix.MS_PRIVATE|unix.MS_REC, "")`, `"", unix.MS_REC|unix.MS_SLAVE, "")`, "./rt/oci", "TestWithoutMountNS"},
		{"hooks: one that takes too long is killed", "sandbox/compiler/hooks.go", "named(unix.PR_SET_PDEATHSIG, \"PR_SET_PDEATHSIG\"), named(uint64(unix.SIGKILL), \"SIGKILL\")", "named(unix.PR_SET_PDEATHSIG, \"PR_SET_PDEATHSIG\"), num(0)", "./sandbox", "TestSlowHookDies"},
		{"hooks: the state cannot be changed by them", "sandbox/hooks.go", "const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW", "const seals = unix.F_SEAL_GROW", "./sandbox", "TestHookCannotWrite"},
		{"create: a creator that is gone ends the child", "sandbox/compiler/gate.go", "num(1)).want(1).check(field(1, 0, 1, 0xff, 1))\n\tb.p.Barriers++", "num(1))\n\tb.p.Barriers++", "./sandbox/...", "TestGate|TestCreateErrors"},
	}
}
