package main

import "slices"

func table() []mutant {
	return slices.Concat(archives(), images(), durable(), requests(), sandboxes(), containers(), filters(), faces(), drivers(), registries(), networkings(), ownLinks())
}

// archives are the defences against what an image or a copied archive may hold.
func archives() []mutant {
	unpack := func(name, file, old, new, run string) mutant {
		return mutant{"archive: " + name, "layers/archive/" + file, old, new, "./layers/archive", run}
	}
	return []mutant{
		unpack("names are resolved in the root (CVE-2018-15664)", "tree.go", "inRoot  = unix.RESOLVE_IN_ROOT |", "inRoot  =", "TestLinksAreConfined|TestFolderSwappedForLink"),
		unpack("names that climb out are refused", "archive.go", `if clean == ".." || strings.HasPrefix(clean, "../") {`, `if clean == "..." {`, "TestHostileArchives"),
		unpack("whiteouts of .. are refused (CVE-2014-9357)", "archive.go", `if hides == "" || hides == "." || hides == ".." {`, `if hides == "" || hides == "." {`, "TestHostileArchives"),
		unpack("whiteouts without a name are refused", "archive.go", `if hides == "" || hides == "." || hides == ".." {`, `if hides == "." || hides == ".." {`, "TestHostileArchives"),
		unpack("long names are refused", "archive.go", "case len(name) > max:", "case false:", "TestHostileArchives|TestCleanName"),
		unpack("names with a zero byte are refused", "archive.go", "case strings.IndexByte(name, 0) >= 0:", "case false:", "TestCleanName"),
		unpack("only harmless attributes are set", "archive.go", `return strings.HasPrefix(name, "user.") || name == "security.capability"`, "return true", "TestPropertiesAreKept|TestHostileArchives|TestOverlayMarks"),
		unpack("a hard link does not follow a symlink", "unpack.go", "unix.Linkat(fd, tbase, dir, base, 0)", "unix.Linkat(fd, tbase, dir, base, unix.AT_SYMLINK_FOLLOW)", "TestLink|TestHostile|TestPropertiesAreKept"),
		unpack("a file is made anew, not written through a link", "unpack.go", "unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)\n\tif err != nil {\n\t\treturn err\n\t}\n\tdefer unix.Close(fd)", "unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)\n\tif err != nil {\n\t\treturn err\n\t}\n\tdefer unix.Close(fd)", "TestNewFileSwappedForLink"),
		unpack("a device bomb is refused", "unpack.go", "if u.devices++; u.devices > u.o.Limits.Devices {", "if u.devices++; false {", "TestHostileArchives"),
		unpack("overlay's own mark is refused", "unpack.go", "if dev == 0 && u.o.Marks == OverlayMarks {", "if false {", "TestHostileArchives"),
		unpack("a million entries are refused", "unpack.go", "u.stats.Entries > u.o.Limits.Entries {", "false {", "TestHostileArchives"),
		unpack("more bytes than the limit are refused", "unpack.go", "if h.Size < 0 || h.Size > u.o.Limits.Bytes-u.stats.Bytes {", "if h.Size < 0 {", "TestHostileArchives"),
		unpack("deep nesting is refused", "unpack.go", `if strings.Count(name, "/") > u.o.Limits.Depth {`, "if false {", "TestHostileArchives"),
		unpack("zeros without end are refused", "unpack.go", "if n > maxTail {", "if n < 0 {", "TestBrokenStreams|TestHostileArchives"),
		unpack("a link in a device's place is not followed", "dress.go", "if st.Mode&unix.S_IFMT == unix.S_IFLNK {\n\t\treturn fmt.Errorf(\"%w: a link took", "if st.Mode == 0 {\n\t\treturn fmt.Errorf(\"%w: a link took", "TestSwappedDevice"),
		{"blob: a wrong digest is noticed", "layers/blob/blob.go", `if want != "" && v.Digest() != want {`, "if false {", "./layers/blob", "TestOpenLayer"},
		{"blob: a wrong size is noticed", "layers/blob/blob.go", "if v.size >= 0 && v.n != v.size {", "if false {", "./layers/blob", "TestOpenLayer"},
		{"blob: a large manifest is refused", "layers/blob/blob.go", "if size > limit {", "if false {", "./layers/blob", "TestReadSmall"},
	}
}

// durable are the fsyncs and the orders of writing that a power cut or a kill tries.
func durable() []mutant {
	killed := func(name, file, old, new string) mutant {
		return mutant{"killed: " + name, "layers/repo/" + file, old, new, "./layers/repo", "TestKilled$/overlay"}
	}
	answered := func(name, file, old, new, pkg string) mutant {
		return mutant{"durable: " + name, "layers/" + file, old, new, "./layers/" + pkg, "TestDurable"}
	}
	return []mutant{
		answered("a writable layer has its name", "driver/store.go", "\treturn blob.SyncDir(filepath.Dir(final))", "\treturn nil", "driver/overlay"),
		answered("layers' content is synced", "driver/stager.go", "if err := blob.SyncTree(s.root); err != nil {", "if err := error(nil); err != nil {", "driver/overlay"),
		answered("layers have their names", "driver/stager.go", "return blob.SyncDir(s.layers())", "return nil", "driver/overlay"),
		answered("a mended layer is synced", "driver/overlay/mend.go", "return blob.SyncTree(d.Layer(id))", "_ = blob.SyncTree\n\treturn nil", "driver/overlay"),
		answered("a btrfs layer's content is synced", "driver/btrfs/btrfs.go", "if err = blob.SyncTree(temp); err != nil {", "if err != nil {", "driver/btrfs"),
		answered("a btrfs layer has its name", "driver/btrfs/btrfs.go", "if err := seal(d.Layer(id)); err != nil {", "if err := error(nil); err != nil {", "driver/btrfs"),
		answered("a btrfs container has its name", "driver/store.go", "\treturn blob.SyncDir(filepath.Dir(final))", "\treturn nil", "driver/btrfs"),
		answered("a vfs layer's content is synced", "driver/vfs/vfs.go", "\tif err = blob.SyncTree(temp); err != nil {\n\t\treturn st, err\n\t}\n", "", "driver/vfs"),
		answered("a vfs container's copy is synced", "driver/vfs/vfs.go", "\tif err = blob.SyncTree(temp); err != nil {\n\t\treturn err\n\t}\n", "", "driver/vfs"),
		answered("an overlay top is committed", "driver/overlay/overlay.go", "return d.Commit(temp, d.Top(id))", "return d.Place(temp, d.Top(id))", "driver/overlay"),
		answered("a packed layer is committed", "driver/overlay/packed.go", "return d.Commit(temp, d.Layer(id))", "return d.Place(temp, d.Layer(id))", "driver/overlay"),
		answered("a vfs layer is committed", "driver/vfs/vfs.go", "return st, d.Commit(temp, d.Layer(id))", "return st, d.Place(temp, d.Layer(id))", "driver/vfs"),
		answered("a vfs top is committed", "driver/vfs/vfs.go", "return d.Commit(temp, d.Top(id))", "return d.Place(temp, d.Top(id))", "driver/vfs"),
		answered("a btrfs top is committed", "driver/btrfs/btrfs.go", "return d.Commit(temp, d.Top(id))", "return d.Place(temp, d.Top(id))", "driver/btrfs"),
		answered("a record is published", "unpacked/unpacked.go", "return blob.Publish(f.Name(), s.RecordPath(id))", "return os.Rename(f.Name(), s.RecordPath(id))", "repo"),
		answered("a record's content is synced", "unpacked/unpacked.go", "if err := f.Sync(); err != nil {", "if err := error(nil); err != nil {", "repo"),
		answered("a record has its name", "blob/file.go", "return SyncDir(filepath.Dir(new))", "_ = filepath.Dir\n\treturn nil", "repo"),
		answered("records of published layers have their names", "unpacked/stage.go", "return blob.SyncDir(s.meta())", "return nil", "repo"),
		{"durable: records on a disk of their own are synced", "layers/unpacked/stage.go", "if layers.Dev == meta.Dev {", "if true {", "./layers/repo", "TestRecordsAreDurableApart"},
		answered("what was pushed is synced", "registry/server/uploads.go", "if err := u.file.Sync(); err != nil {", "if err := error(nil); err != nil {", "registry/server"),
		answered("what was pushed has its name", "blob/file.go", "return SyncDir(filepath.Dir(new))", "_ = filepath.Dir\n\treturn nil", "registry/server"),
		killed("folders that no record names are swept", "repo.go", "if want[id] {", "if true {"),
		killed("a writable layer is forgotten before it goes", "tops.go", "\t\tid = t.Folder\n\t\treturn g.Delete(node)", "\t\tid = t.Folder\n\t\tif err := r.drv.RemoveTop(id); err != nil {\n\t\t\treturn err\n\t\t}\n\t\treturn g.Delete(node)"),
		killed("a layer is recorded once it is whole", "batch.go", "\tif err := b.r.disk.Publish(layers); err != nil {\n\t\treturn err\n\t}\n\told, err := b.r.recordLayers(jobs, nodes)\n", "\told, err := b.r.recordLayers(jobs, nodes)\n\tif err == nil {\n\t\terr = b.r.disk.Publish(layers)\n\t}\n"),
		{"repo: layers of what was cut short go", "layers/repo/repo.go", "_, err = r.collect()\n", "", "./layers/repo", "TestLayersWithoutImage"},
		killed("an image comes with its name", "load.go", "\treturn r.update(func(g graph.Graph) error { return putImage(g, rc, nodes) })", "\tbare := rc\n\tbare.Names = nil\n\tif err := r.update(func(g graph.Graph) error { return putImage(g, bare, nodes) }); err != nil {\n\t\treturn err\n\t}\n\treturn r.update(func(g graph.Graph) error { return putImage(g, rc, nodes) })"),
		killed("a lease goes with its image's coming", "exchange.go", "if err := endLease(g, lease); err != nil {", "if err := error(nil); err != nil {"),
		{"layers: a layer is synced before it gets its name", "layers/blob/file.go", "if err := unix.Syncfs(int(d.Fd())); err != nil {", "if err := error(nil); err != nil {", "./qemu-tests/power", "TestCutsOfFirstUnpack"},
		{"power: a layer's content is synced", "layers/blob/file.go", "if err := unix.Syncfs(int(d.Fd())); err != nil {", "if err := error(nil); err != nil {", "./qemu-tests/power", "TestCutsOfALife/ext4"},
		{"power: the names of layers' records are synced", "layers/unpacked/stage.go", "return blob.SyncDir(s.meta())", "return nil", "./qemu-tests/power", "TestCutsOfALife/ext4"},
		{"power: layers are synced before their nodes name them", "layers/repo/batch.go", "if err := b.r.disk.Publish(layers); err != nil {", "go b.r.disk.Publish(layers)\n\tif err := error(nil); err != nil {", "./qemu-tests/power", "TestCutsOfALife/ext4"},
		{"power: a transaction is synced", "rt/store/store.go", "NoSync: volatile,", "NoSync: true,", "./qemu-tests/power", "TestCutsOfALife/ext4"},
		{"power: a btrfs layer is synced", "layers/blob/file.go", "if err := unix.Syncfs(int(d.Fd())); err != nil {", "if err := error(nil); err != nil {", "./qemu-tests/power", "TestCutsOfALife/driver-btrfs"},
		{"layers: a layer without a record is swept", "layers/driver/store.go", "\tfor _, n := range left {\n\t\tif err := s.removeTemp(n); err != nil {", "\tfor _, n := range left[:0] {\n\t\tif err := s.removeTemp(n); err != nil {", "./layers/driver/overlay", "TestConformance"},
		{"store: a new store has its name", "rt/store/store.go", "if err := syncDir(filepath.Dir(path)); err != nil {", "if err := error(nil); err != nil {", "./rt/store", "TestDurable"},
		{"store: a transaction is synced", "rt/store/store.go", "NoSync: volatile,", "NoSync: true,", "./rt/store", "TestDurable"},
		{"engine: an exit that nobody saw is asked of the keeper", "rt/engine/adopt.go", "code, known := c.inheritedExit(lost, notify.Process{PID: st.Pid, Start: st.StartTime})", "code, known := 0, false", "./rt/daemon", "TestExitWhileNoEngineIsUp"},
		{"keeper: what an engine said before its end is heard before it is reaped", "init/keeper/keeper.go", "reap.One(k.lastWords)", "reap.One(nil)", "./init/keeper", "TestLastWordsOfAnEngineAreHeard"},
		{"engine: cgroups that no record claims are removed", "rt/execdriver/cgroups.go", "if g, err := cgroup.Open(\"/\" + instance + \"/\" + d.Name()); err == nil {", "if g, err := cgroup.Open(\"/\" + instance + \"/\" + d.Name()); err == nil && false {", "./rt/daemon", "TestSweepsWhatNobodyClaims"},
		{"logs: a record knows where it ends in the spool", "rt/logs/logs.go", "r.offset = at + int64(used)", "r.offset = at", "./rt/logs", "TestRecoveryFromAnyCopy"},
		{"logs: a torn record is cut off", "rt/logs/file.go", "if err := os.Truncate(l.path(l.seqs[i]), good); err != nil {", "if good < 0 {", "./rt/logs", "TestTornTailIsCutOff"},
	}
}

// requests are the defences of the server.
func requests() []mutant {
	return []mutant{
		{"api: a web page's requests are refused", "rt/api/server.go", `if r.Header.Get("Origin") != "" || !hostAllowed(r) {`, "if !hostAllowed(r) {", "./rt/api", "."},
		{"api: names that DNS could have been rebound from are refused", "rt/api/server.go", `if r.Header.Get("Origin") != "" || !hostAllowed(r) {`, `if r.Header.Get("Origin") != "" {`, "./rt/api", "."},
		{"api: huge bodies are refused", "rt/api/server.go", "http.MaxBytesReader(nil, r.Body, maxBody)", "r.Body", "./rt/api", "."},
		{"users: a number is an id first (CVE-2016-3697)", "sandbox/rootfs/user.go", "byNumber && uid != want || !byNumber && f[0] != name {", "f[0] != name && (!byNumber || uid != want) {", "./rt/engine", "TestResolveUser"},
		{"daemon: folders are closed to others (CVE-2021-41091)", "rt/engine/engine.go", "if err := os.Chmod(dir, perm); err != nil {", "if err := os.Chmod(dir, 0o755); err != nil {", "./rt/daemon", "TestFoldersAreClosed"},
	}
}

// sandboxes are the defences of the runtime.
func sandboxes() []mutant {
	in := func(name, file, old, new, run string) mutant {
		return mutant{"sandbox: " + name, "sandbox/" + file, old, new, "./sandbox", run}
	}
	// Behind these stands another defence, so that only the list of calls shows that they are gone.
	listed := func(name, file, old, new string) mutant {
		return mutant{"plan: " + name, "sandbox/" + file, old, new, "./sandbox/compiler", "TestGoldens|TestRefused"}
	}
	return []mutant{
		in("mount targets are resolved in the root (CVE-2021-30465, 2024-45310)", "compiler/build.go", "const inRoot = unix.RESOLVE_IN_ROOT |", "const inRoot =", "TestSymlinkTargets|TestSwappedTarget"),
		in("/proc and /sys are no links (CVE-2019-19921, 2023-27561, 2023-28642)", "compiler/mounts.go", `if fstype == "proc" || fstype == "sysfs" {`, `if fstype == "none" {`, "TestLinkedKernelFolders|TestSymlinkTargets"),
		in("only procfs is mounted on /proc (CVE-2019-16884)", "compiler/mounts.go", `return errors.New("only procfs may be mounted on /proc")`, "return nil", "TestMountsOverProc"),
		in("nothing is mounted inside /proc", "compiler/mounts.go", `return errors.New("nothing may be mounted inside /proc but files that describe the machine")`, "return nil", "TestMountsOverProc"),
		in("/dev/console is no link (CVE-2025-52565)", "compiler/terminal.go", `b.file(b.slot("root"), "/dev/console", t, unix.RESOLVE_NO_SYMLINKS)`, `b.file(b.slot("root"), "/dev/console", t, 0)`, "TestConsoleLink"),
		in("the mask's source is the host's null device (CVE-2025-31133)", "compiler/devices.go", `b.call("openat", cwd(), str("/dev/null"), flags(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, plan.OpenBits), num(0)).to(fd)`, `b.call("openat", cwd(), str("/dev/zero"), flags(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, plan.OpenBits), num(0)).to(fd)`, "TestMasksAndReadonly|TestNullLink"),
		listed("the working directory is inside the root (CVE-2024-21626)", "compiler/process.go", `num(unix.PathMax)).check(field(0, 0, 1, 0xff, '/'))`, "num(unix.PathMax))"),
		listed("descriptors are closed before the execve", "compiler/process.go", `b.call("close_range", num(3+b.keep), named(0xffffffff, "~0"), num(0))`, `b.call("close_range", num(1000), named(0xffffffff, "~0"), num(0))`),
		in("a v1 cgroup tree is read-only (CVE-2022-0492)", "compiler/cgroups.go", "if o.Set&unix.MS_RDONLY != 0 {", "if false {", "TestMasksAndReadonly|TestSharedCgroups"),
		in("who may ptrace stands still during an exec (CVE-2016-9962)", "exec.go", "freezeAll(ctx, append(slices.Clone(c.Freeze), c.CgroupPath))", "freezeAll(ctx, nil)", "TestExecUnseen|TestFrozenTarget"),
		in("a reused pid is not adopted", "process.go", "if err != nil || st.StartTime != startTime {", "if err != nil || st.StartTime == 0 {", "TestSignals|TestWaitStranger|TestHostService|TestOutputAndStatus"),
		listed("sysctls are of a namespace of the container's own", "spec/sysctl.go", `return fmt.Errorf("linux.sysctl: %s does not belong to a namespace", key)`, "return nil"),
		in("a tiny memory limit does not kill the engine", "sandbox.go", "err = fmt.Errorf(\"%w: %w\", ErrOOM, err)", "_ = n", "TestTinyMemoryLimit"),
	}
}
