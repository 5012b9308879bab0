package main

// drivers are the defences of graph drivers and packed layers.
func drivers() []mutant {
	in := func(name, pkg, file, old, new, run string) mutant {
		return mutant{"drivers: " + name, "layers/driver/" + pkg + "/" + file, old, new, "./layers/driver/" + pkg, run}
	}
	thin := func(name, file, old, new, run string) mutant {
		return mutant{"devmapper: " + name, "layers/driver/devmapper/" + file, old, new, "vm:./layers/driver/devmapper", run}
	}
	const conformance = "TestConformance"
	return []mutant{
		{"drivers: a full disk proves nothing against a driver", "layers/driver/driver.go", "if err := blob.NoSpace(probe()); !errors.Is(err, blob.ErrNoSpace) {", "if err := blob.NoSpace(probe()); err != nil {", "./layers/driver/overlay", conformance + "/full_disk"},
		{"drivers: trees are compared without going through a container's links", "layers/driver/whole/compare.go", "Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,", "Resolve: 0,", "./layers/driver/vfs", conformance + "/plain/links_astray"},
		in("a btrfs layer is read-only", "btrfs", "btrfs.go", "if err := seal(d.Layer(id)); err != nil {", "if err := error(nil); err != nil {", "TestLayersAreReadOnly"),
		in("subvolumes that a container made go with it", "btrfs", "drop.go", "if err != unix.ENOTEMPTY {", "if true {", "TestSubvolumesOfContainersGo"),
		in("what did not fit on btrfs takes no space afterwards", "btrfs", "btrfs.go", "return d.reclaim(id)", "_ = id\n\treturn nil", conformance+"/full_disk"),
		in("a destroyed subvolume's removal is driven", "btrfs", "drop.go", "if err := commit(int(f.Fd())); err != nil {", "if err := error(nil); err != nil {", "TestReclaim"),
		in("a limit that btrfs does not keep is refused", "btrfs", "btrfs.go", "if err == quotaIsOff {", "if err == quotaIsOff {\n\t\treturn nil", "TestLimit"),
		in("a top of metacopy or redirect_dir is refused", "overlay", "changes.go", "if err := refuseForeign(upper, path, st); err != nil {", "if err := refuseForeign(upper, path, st); false {", "TestForeignTops"),
		in("metacopy, redirect_dir and index are off by name", "overlay", "overlay.go", "b.WriteString(plainTops)", `b.WriteString("")`, "TestForeignTops"),
		in("a packed layer's file must be as it was", "overlay", "packed.go", "if err := p.Check(); err != nil {", "if err := p.Check(); false {", "TestPackedFileGone"),
		in("a packed layer twice in a stack is mounted once", "overlay", "packed.go", "if seen[p.Path] {", "if false {", "TestPackedTwiceInOneStack"),
		{"drivers: a loop device is read-only and goes by itself", "layers/driver/packed/loop.go", "Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},", "Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY},", "./layers/driver/overlay", "TestPackedSharesOneDevice"},
		{"repo: a packed layer's digest is checked", "layers/repo/adopt.go", "blob.Verify(counted, j.from.Digest, j.from.Size)", "counted", "./layers/repo", "TestInPlaceDamaged"},
		{"repo: packed layers come from folders of the machine alone", "layers/repo/adopt.go", "folder, is := s.(source.Folder)\n\tif !is {", "folder, is := s.(source.Folder)\n\tif false && !is {", "./layers/repo", "TestInPlaceRefused"},
		{"repo: a packed layer is what its diff id says", "layers/source/recipe.go", `if l.Format != "" && l.Digest != img.RootFS[i] {`, "if false {", "./layers/repo", "TestInPlaceRefused"},
		{"sandbox: mounts beside the root stay private", "sandbox/compiler/mounts.go", "b.privateParent(m.Target)", "_ = m", "./sandbox", "TestMountsBesideTheRoot"},
		{"engine: the first thread keeps the machine's mounts", "rt/execdriver/rootview.go", "if unix.Gettid() == unix.Getpid() {", "if unix.Gettid() == -1 {", "./rt/execdriver", "TestFirstThreadStaysWhereItIs"},
		{"repo: fsck looks at what a layer has from below", "layers/fsck/check.go", "if marks == archive.OverlayMarks || damaged[parent]", "if true || damaged[parent]", "./layers/repo", "TestInheritedDamage"},
		{"archive: what a layer hides is no part of it", "layers/archive/inherit.go", "if c.has(c.hidden, sub) {", "if false {", "./layers/repo", "TestInheritedDamage"},
		{"packed: attributes that the kernel passes over are refused", "layers/driver/packed/packed.go", "if herr != nil || !h.hasAttrs() {", "if herr != nil || !h.hasAttrs() || true {", "./layers/driver/packed", "TestAttributesPassedOver"},
		{"repo: fsck reads packed layers", "layers/fsck/check.go", "blob.Verify(blob.WithContext(ctx, f), l.DiffID, -1)", "blob.WithContext(ctx, f)", "./layers/repo", "TestInPlaceChecked"},
		in("a top of metacopy is not committed", "overlay", "changes.go", "\t\treturn refuseForeign(upper, path, st)\n", "\t\treturn nil\n", "TestForeignTops"),
		{"drivers: the pool's low water is looked at", "layers/driver/devmapper/status.go", "case st.dataTotal-st.dataUsed < max(st.dataTotal/50, 2):", "case false:", "./layers/driver/devmapper", "TestParseStatus"},
		thin("no number is used twice", "pool.go", "return n, d.tell(fmt.Sprintf(\"set_transaction_id %d %d\", st.transaction, n))", "return n, nil", "TestNumbersAreNeverUsedAgain"),
		thin("the first volume stays, whatever names it", "devmapper.go", "if v.number == d.pool.Base {", "if false {", "TestNumbersAreNeverUsedAgain"),
		thin("an old copy of a pool is refused", "pool.go", "if newest > st.transaction {", "if false {", "TestOldPool"),
		thin("a full pool errs at once", "pool.go", "%d %d 2 skip_block_zeroing error_if_no_space", "%d %d 1 skip_block_zeroing", "TestFullPool"),
		thin("a full pool takes no new containers", "pool.go", "why := st.low()", "why := st.low()[:0]", "TestFullPool"),
		thin("a device of the same name may be another's", "volume.go", "if !same(have, t) {", "if false {", "TestCopiedStore"),
		thin("a device goes with its last user", "volume.go", "err = dm.Remove(name, true)", "err = nil", "TestNothingStaysActive"),
		thin("a half-made device is in nobody's way", "volume.go", "if !d.Live {", "if false {", "TestHalfMadeDevices"),
		thin("a layer's device is read-only", "volume.go", "activate(v.name(), v.readonly", "activate(v.name(), false && v.readonly", "TestHalfMadeDevices"),
		thin("a volume's blocks are given back", "devmapper.go", "err = discard(node, d.size())", "err = nil", "TestSpaceComesBack"),
		thin("a disk with something on it is not taken", "backing.go", `len(bytes.Trim(rest, "\x00")) > 0 {`, "len(rest) < 0 {", "TestDevice"),
		thin("another store's disk is not taken", "backing.go", "if !bytes.Equal(have, p.header()) {", "if false {", "TestDevice"),
		thin("a volume has a name before it is there", "devmapper.go", "return volume{d, n, false}, blob.SyncDir(temp)", "return volume{d, n, false}, nil", "TestCutAfterVolume"),
		thin("a volume has a name on btrfs", "devmapper.go", "return volume{d, n, false}, blob.SyncDir(temp)", "return volume{d, n, false}, nil", "TestDurable"),
		thin("a container on a volume has its name", "devmapper.go", "\treturn d.Commit(temp, d.Top(id))", "\treturn d.Place(temp, d.Top(id))", "TestDurable"),
		thin("a layer on a volume has its name", "devmapper.go", "return st, d.Commit(temp, d.Layer(id))", "return st, d.Place(temp, d.Layer(id))", "TestDurable"),
		thin("a layer is sealed before it has its name", "devmapper.go", "return st, seal(mnt)", "return st, nil", "TestSealed"),
		thin("a layer that could not be written is none", "volume.go", "if err := unix.Syncfs(int(dir.Fd())); err != nil {", "if err := error(nil); err != nil {", "TestLayerNotWritten"),
		thin("a layer's file system needs no journal", "volume.go", "err = unix.FsconfigReconfigure(ctx)", "err = nil", "TestSealed"),
		thin("the first volume is sealed", "pool.go", "return fs, seal(mnt)", "return fs, nil", "TestPoolIsDurable"),
		thin("a limit is written", "devmapper.go", "return unix.Syncfs(int(f.Fd()))", "return nil", "TestDurable"),
		thin("a pool's base is recorded", "backing.go", "return blob.Publish(f.Name(), recordPath(root))", "return os.Rename(f.Name(), recordPath(root))", "TestPoolIsDurable"),
		{"devmapper: a device's pool is recorded", "layers/driver/devmapper/backing.go", "return blob.Publish(f.Name(), recordPath(root))", "return os.Rename(f.Name(), recordPath(root))", "./layers/driver/devmapper", "TestDeviceIsTakenDurably"},
		{"devmapper: a pool's record has its content", "layers/driver/devmapper/backing.go", "if err := f.Sync(); err != nil {\n\t\treturn fmt.Errorf(\"sync record", "if err := error(nil); err != nil {\n\t\treturn fmt.Errorf(\"sync record", "./layers/driver/devmapper", "TestDeviceIsTakenDurably"},
		{"devmapper: a device is marked as taken", "layers/driver/devmapper/backing.go", "if err := f.Sync(); err != nil {\n\t\treturn fmt.Errorf(\"write", "if err := error(nil); err != nil {\n\t\treturn fmt.Errorf(\"write", "./layers/driver/devmapper", "TestDeviceIsTakenDurably"},
		{"request: a limit that is asked for is a limit", "rt/engine/create.go", "image.ID(spec.ImageID), limit)", "image.ID(spec.ImageID), 0*limit)", "./rt/daemon", "TestDiskLimitNeedsQuotas"},
	}
}
