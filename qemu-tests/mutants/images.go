package main

// images are the defences of how layers are kept and given out.
func images() []mutant {
	record := func(name, file, old, new, run string) mutant {
		return mutant{"record: " + name, "layers/" + file, old, new, "./layers/record", run}
	}
	return []mutant{
		record("what a later entry replaces is kept", "archive/record.go", "t.losing = r.losing", "t.losing = func(int, string, *unix.Stat_t) error { return nil }", "TestAgain"),
		record("a file is named through no link", "archive/tree.go", "t.at, t.atKnown = t.locate(fd, p)", "t.at, t.atKnown = p, true", "TestAgain"),
		record("sparse files keep their form", "archive/record.go", "if !isSparse(h) && r.t.atKnown {", "if r.t.atKnown {", "TestTarsOfGNU"),
		record("changed content is noticed", "record/stream.go", "if !isSum(b.sum, b.e.SHA256) {", "if false {", "TestDamageIsNamed"),
		record("longer content is noticed", "record/stream.go", "if n, _ := b.r.Read(one[:]); n > 0 {", "if n, _ := b.r.Read(one[:]); n > 1 {", "TestDamageIsNamed"),
		record("no link is followed to a content", "archive/record.go", "const how = inMount | unix.RESOLVE_NO_SYMLINKS", "const how = inMount", "TestDamageIsNamed"),
		record("an incomplete record gives nothing out", "record/stream.go", "if !r.info.Exact {", "if false {", "TestTooMuchReplaced"),
		record("a damaged header is noticed", "record/record.go", "case binary.LittleEndian.Uint32(b[72:]) != checksum(b[:72]):", "case false:", "TestBrokenRecord"),
		{"archive: whiteouts have no content without end", "layers/archive/unpack.go", "if u.skipped += h.Size; u.skipped > u.o.Limits.Bytes {", "if u.skipped += h.Size; false {", "./layers/archive", "TestHostileArchives"},
		{"blob: a huge dictionary is refused", "layers/blob/xz.go", "if dict > maxDictionary {", "if false {", "./layers/blob", "TestXZRefuses"},
		{"blob: a second xz stream is not dropped", "layers/blob/xz.go", "if b != 0 {", "if b != 0 && false {", "./layers/blob", "TestXZRefuses"},
		{"repo: a layer that came past is what its image says", "layers/repo/intake.go", "case p.diffID != j.diffID:", "case false:", "./layers/repo", "TestBadArchives"},
		{"repo: a blob that came past is what its manifest says", "layers/repo/intake.go", `case j.from.Digest != "" && p.blob != j.from.Digest:`, "case false:", "./layers/repo", "TestBadArchives"},
		{"repo: a blob that came past has its size", "layers/repo/intake.go", "case j.from.Size >= 0 && p.size != j.from.Size:", "case false:", "./layers/repo", "TestBadArchives"},
		{"repo: what came past and no image has goes", "layers/repo/intake.go", "for _, m := range in.Members {\n\t\terr = errors.Join(err, in.forget(m))", "for range in.Members {\n\t\terr = errors.Join(err, nil)", "./layers/repo", "TestStreamEnds"},
		{"repo: what is replaced in an archive goes", "layers/repo/intake.go", "if old := in.Add(h, m); old != nil {", "if old := in.Add(h, m); old != nil && false {", "./layers/repo", "TestStreams"},
		{"repo: what is here is not unpacked from a stream", "layers/repo/intake.go", "if ok {\n\t\treturn hashed, at, err", "if ok && false {\n\t\treturn hashed, at, err", "./layers/repo", "TestStreamOfWhatIsHere"},
		{"repo: room is made before a stream finds none", "layers/repo/intake.go", "w.repo.freed()", "_ = w.repo", "./layers/repo", "TestUnreferencedGoesFirst"},
		{"repo: layers are published all or not at all", "layers/repo/batch.go", "err = errors.Join(err, b.r.disk.Unstage(p.layer))", "_ = p", "./layers/repo", "TestPublishIsAllOrNothing"},
		{"repo: a layer is one load's until it is there", "layers/repo/batch.go", "b.pending = append(b.pending, pending{j, l})", "b.letGo(j.node())\n\tb.pending = append(b.pending, pending{j, l})\n\tb.held = append(b.held[:0:0], b.held...)", "./layers/repo", "TestLoadsAtOnce"},
		{"api: progress does not end the archive that comes in", "rt/api/images.go", "if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {", "if err := error(nil); err != nil {", "./rt/daemon", "TestLoadTellsWhileReading"},
		{"api: progress does not fill the socket of who only sends", "rt/api/images.go", "return e.shown <= maxEarlyProgress", "return true", "./rt/api", "TestEarlyProgress"},
		{"repo: a layer stays while it is read", "layers/repo/open.go", "pins := []string{node}\n\tr.pin(pins)", "pins := []string{}\n\tr.pin(pins)", "./layers/repo", "TestOpenLayerHolds"},
		{"repo: a layer without a record is compared before it goes out", "layers/unpacked/stream.go", "if sum.Digest() != diffID {", "if false {", "./layers/repo", "TestOpenLayerWithoutRecord"},
		{"repo: a container's layer stays with it", "layers/catalog/containers.go", "if g.Has(TopPrefix + id) {", "if false {", "./layers/repo", "TestContainersInTheGraph"},
		{"repo: a pull under way keeps what it has", "layers/repo/lease.go", " && r.pins[n] == 0 {", " {", "./layers/repo", "TestForgetPulls"},
		{"engine: image prune takes what pulls have left", "rt/images/usage.go", "if in.Want(nil) {", "if false {", "./rt/daemon", "TestPruneForgetsPulls"},
		{"engine: a repair is asked for by who is logged in", "rt/images/fsck.go", "in.Creds[at.Host]", "registry.Credentials{}", "./rt/daemon", "TestRepairWithCredentials"},
		{"repo: an archive without the platform is refused", "layers/source/recipe.go", "\tif err == nil && len(rs) == 0 {\n\t\terr = fmt", "\tif false {\n\t\terr = fmt", "./layers/repo", "TestLoadFor"},
		{"repo: only what is for the platform is taken", "layers/source/recipe.go", "return !want.Is(rc.Image)", "return want == image.Platform{}", "./layers/repo", "TestLoadFor"},
		{"repo: an image for another platform is not saved", "layers/repo/save.go", "&& !s.want.Is(im.Image) {", "&& false {", "./layers/repo", "TestSaveForPlatform"},
		{"registry: what is no success is not imported", "layers/registry/get.go", "resp.StatusCode != http.StatusOK {", "resp.StatusCode == 0 {", "./layers/registry", "TestGet"},
		{"registry: from TLS to plain HTTP is no way, also for an import", "layers/registry/get.go", "insecure: u.Scheme == \"http\"", "insecure: true", "./layers/registry", "TestGet"},
		{"repo: a store that is repaired from is not written", "layers/origin/store.go", "ReadOnly: true, ", "", "./layers/repo", "TestRepairFromStore"},
		{"repo: a damaged store that is repaired from does not end the engine", "layers/origin/store.go", "defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))", "_ = debug.SetPanicOnFault", "./layers/repo", "TestRepairFromBadStores"},
		{"graph: a path never means what is gone", "layers/graph/path.go", "return g.Link(Edge{PathPrefix + p, kindIs, to})", "return g.out.Put(key(PathPrefix+p, kindIs, to), []byte{})", "./layers/graph", "TestPaths"},
		{"api: half an archive does not look whole", "rt/api/archives.go", "panic(http.ErrAbortHandler)", "return nil", "./rt/daemon", "TestSaveOfDamagedImage"},
		{"client: a stream that breaks off leaves the old file", "rt/client/command/output.go", "if err = errors.Join(err, f.Chmod(0o600), f.Close()); err == nil {", "if err2 := errors.Join(f.Chmod(0o600), f.Close()); err2 == nil {", "./rt/client/command", "TestOutput"},
	}
}
