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
		{"repo: a layer stays while it is read", "layers/repo/record.go", "pins := []string{node}\n\tr.pin(pins)", "pins := []string{}\n\tr.pin(pins)", "./layers/repo", "TestOpenLayerHolds"},
		{"repo: a layer without a record is compared before it goes out", "layers/repo/record.go", "if sum.Digest() != l.DiffID {", "if false {", "./layers/repo", "TestOpenLayerWithoutRecord"},
		{"repo: a container's layer stays with it", "layers/repo/containers.go", "if g.Has(topPrefix + id) {", "if false {", "./layers/repo", "TestContainersInTheGraph"},
		{"graph: a path never means what is gone", "layers/graph/path.go", "return g.Link(Edge{PathPrefix + p, kindIs, to})", "return g.out.Put(key(PathPrefix+p, kindIs, to), []byte{})", "./layers/graph", "TestPaths"},
		{"api: half an archive does not look whole", "rt/api/archives.go", "panic(http.ErrAbortHandler)", "return nil", "./rt/daemon", "TestSaveOfDamagedImage"},
		{"client: a stream that breaks off leaves the old file", "rt/client/archives.go", "if err = errors.Join(err, f.Chmod(0o600), f.Close()); err == nil {", "if err2 := errors.Join(f.Chmod(0o600), f.Close()); err2 == nil {", "./rt/client", "TestOutput"},
	}
}
