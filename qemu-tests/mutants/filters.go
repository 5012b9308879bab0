package main

// filters are the defences that are system call filters, and those around them.
func filters() []mutant {
	compiler := func(name, file, old, new, run string) mutant {
		return mutant{"seccomp: " + name, "sandbox/seccomp/" + file, old, new, "./sandbox/seccomp", run}
	}
	const all = "TestAll|TestRefusals|TestProfile"
	return []mutant{
		compiler("newer calls get ENOSYS (clocks of 32-bit ARM)", "rules.go", "return r.simply(retErrno | enosys)", "return r.def", "TestNewer|TestTime64"),
		compiler("unlisted architectures are killed", "tree.go", "other := c.ret(retKillProcess)", "other := c.ret(retAllow)", "TestSiblings|TestAll"),
		compiler("unlisted x32 is not the 64-bit filter's", "tree.go", "body = c.jump(jmpGE, syscalls.X32Bit, c.x32(used), body)", "_ = c.x32(used)", "TestSiblings|TestAll"),
		compiler("the upper half of an argument counts", "tree.go", "return t.load(hiword(index), t.jump(op, v, yes, no))", "return yes", "TestOperators"),
		compiler("conditions are anded", "tree.go", "ok = t.condition(args[i], ok, next)", "next = t.condition(args[i], ok, next)", "TestRules"),
		compiler("filters that are too long are refused", "seccomp.go", "if len(prog) > maxInstrs {", "if false {", "TestTooLong"),
		compiler("a listener that could not be handed over is refused", "seccomp.go", `if r.notifies && !r.lets("sendmsg") {`, "if false {", "TestHandOver"),
		compiler("AF_ALG and AF_VSOCK sockets are refused", "profile.go", "Value: unix.AF_ALG, Op: specs.OpLessThan", "Value: 1 << 40, Op: specs.OpLessThan", all),
		compiler("clone makes no namespaces", "profile.go", "Value: 0x7e020000, Op: specs.OpMaskedEqual", "Value: 0, Op: specs.OpMaskedEqual", all),
		compiler("clone3 gets ENOSYS", "profile.go", "uint(eperm), uint(enosys)", "uint(eperm), uint(eperm)", all),
		compiler("unshare and mount need CAP_SYS_ADMIN (CVE-2022-0492)", "profile.go", `case "CAP_SYS_ADMIN":`, `case "CAP_CHOWN", "CAP_SYS_ADMIN":`, all),
		{"plan: a filter is loaded", "sandbox/compiler/process.go", "if filter != nil && !early {", "if false {", "./sandbox", "TestSeccompActions"},
		{"plan: a listener is sent while the parent is there", "sandbox/compiler/process.go", `return s.ListenerPath != "" || !p.NoNewPrivileges`, `return !p.NoNewPrivileges`, "./sandbox/compiler", "TestFilterPlace"},
		{"sandbox: a container whose agent is missing does not run", "sandbox/runner.go", "if herr := handed(); herr != nil {", "if herr := handed(); false {", "./sandbox", "TestSeccompNoAgent"},
	}
}
