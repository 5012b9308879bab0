package main

// drivers are the defences of graph drivers and packed layers.
func drivers() []mutant {
	in := func(name, pkg, file, old, new, run string) mutant {
		return mutant{"drivers: " + name, "layers/driver/" + pkg + "/" + file, old, new, "./layers/driver/" + pkg, run}
	}
	const conformance = "TestConformance"
	return []mutant{
		{"drivers: trees are compared without going through a container's links", "layers/driver/whole/compare.go", "Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,", "Resolve: 0,", "./layers/driver/vfs", conformance + "/plain/links_astray"},
		in("a btrfs layer is read-only", "btrfs", "btrfs.go", "if err = seal(temp); err != nil {", "if err != nil {", "TestLayersAreReadOnly"),
		in("subvolumes that a container made go with it", "btrfs", "drop.go", "if err != unix.ENOTEMPTY {", "if true {", "TestSubvolumesOfContainersGo"),
		in("what did not fit on btrfs takes no space afterwards", "btrfs", "btrfs.go", "return d.reclaim(id)", "_ = id\n\treturn nil", conformance+"/full_disk"),
		in("a limit that btrfs does not keep is refused", "btrfs", "btrfs.go", "if err == quotaIsOff {", "if err == quotaIsOff {\n\t\treturn nil", "TestLimit"),
		in("a top of metacopy or redirect_dir is refused", "overlay", "changes.go", "if err := refuseForeign(upper, path, st); err != nil {", "if err := refuseForeign(upper, path, st); false {", "TestForeignTops"),
		in("metacopy, redirect_dir and index are off by name", "overlay", "overlay.go", "b.WriteString(plainTops)", `b.WriteString("")`, "TestForeignTops"),
		in("a packed layer's file must be as it was", "overlay", "packed.go", "if err := p.Check(); err != nil {", "if err := p.Check(); false {", "TestPackedFileGone"),
		in("a packed layer twice in a stack is mounted once", "overlay", "packed.go", "if seen[p.Path] {", "if false {", "TestPackedTwiceInOneStack"),
		{"drivers: a loop device is read-only and goes by itself", "layers/driver/packed/loop.go", "Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},", "Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY},", "./layers/driver/overlay", "TestPackedSharesOneDevice"},
		{"repo: a packed layer's digest is checked", "layers/repo/adopt.go", "blob.Verify(counted, j.from.digest, j.from.size)", "counted", "./layers/repo", "TestInPlaceDamaged"},
		{"repo: packed layers come from folders of the machine alone", "layers/repo/adopt.go", "folder, is := s.(folderSource)\n\tif !is {", "folder, is := s.(folderSource)\n\tif false && !is {", "./layers/repo", "TestInPlaceRefused"},
		{"repo: a packed layer is what its diff id says", "layers/repo/recipe.go", `if l.format != "" && l.digest != img.RootFS[i] {`, "if false {", "./layers/repo", "TestInPlaceRefused"},
		{"sandbox: mounts beside the root stay private", "sandbox/plan/mounts.go", "b.privateParent(m.Target)", "_ = m", "./sandbox", "TestMountsBesideTheRoot"},
		{"engine: the first thread keeps the machine's mounts", "rt/engine/rootview.go", "if unix.Gettid() == unix.Getpid() {", "if unix.Gettid() == -1 {", "./rt/engine", "TestFirstThreadStaysWhereItIs"},
		{"packed: attributes that the kernel passes over are refused", "layers/driver/packed/packed.go", "if herr != nil || !h.hasAttrs() {", "if herr != nil || !h.hasAttrs() || true {", "./layers/driver/packed", "TestAttributesPassedOver"},
		{"repo: fsck reads packed layers", "layers/repo/adopt.go", "blob.Verify(blob.WithContext(ctx, f), l.DiffID, -1)", "blob.WithContext(ctx, f)", "./layers/repo", "TestInPlaceChecked"},
		in("a top of metacopy is not committed", "overlay", "changes.go", "\t\treturn refuseForeign(upper, path, st)\n", "\t\treturn nil\n", "TestForeignTops"),
		{"request: a limit that is asked for is a limit", "rt/engine/create.go", "image.ID(spec.ImageID), limit)", "image.ID(spec.ImageID), 0*limit)", "./rt/daemon", "TestDiskLimitNeedsQuotas"},
	}
}
