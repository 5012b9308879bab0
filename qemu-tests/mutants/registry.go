package main

// registries are the defences against what registries send, and of the one that is served here.
func registries() []mutant {
	client := func(name, file, old, new, run string) mutant {
		return mutant{"registry: " + name, "layers/registry/" + file, old, new, "./layers/registry", run}
	}
	server := func(name, file, old, new, run string) mutant {
		return mutant{"registry server: " + name, "layers/registry/server/" + file, old, new, "./layers/registry/server", run}
	}
	pull := func(name, file, old, new, run string) mutant {
		return mutant{"pull: " + name, "layers/" + file, old, new, "./layers/repo", run}
	}
	return []mutant{
		client("TLS is not left by a redirection", "transport.go", `if req.URL.Scheme != "https" && !e.insecure {`, "if false {", "TestRedirectionsKeepTLS"),
		client("credentials stay with their registry", "session.go", "if req.URL.Host == s.at.host && req.URL.Scheme == s.at.scheme {", "if true {", "TestCredentialsStayAtHome"),
		client("a manifest is no index too (CVE-2021-41190)", "manifest.go", "if index && (body.Layers != nil || body.Config != nil) {", "if false {", "TestIdentify"),
		client("what a manifest says and what the registry says agree", "manifest.go", "case isManifestType(header) && header != m.Type:", "case false:", "TestIdentify"),
		client("a list does not lead to other hosts", "manifest.go", "next.Host == base.Host && next.Scheme == base.Scheme", "true", "TestNextPage"),
		client("nobody waits for a day", "session.go", "return wish, wish <= maxWished", "return wish, true", "TestRetryDecides"),
		client("a token that never serves is no loop", "session.go", "renewed = true", "renewed = false", "TestTokensThatNeverServe"),
		client("certificates are checked", "transport.go", "InsecureSkipVerify: c.insecure(host)}", "InsecureSkipVerify: true}", "TestRedirectionsKeepTLS"),
		client("a blob is no longer than it should be", "blob.go", "room := b.d.Size + 1 - b.at", "room := b.d.Size + 2 - b.at", "TestBlobIsBounded"),
		pull("foreign layers are refused", "distribution/pull.go", `case strings.Contains(t, "foreign") || strings.Contains(t, "nondistributable"):`, "case false:", "TestPullRefusesManifests"),
		pull("a manifest is the one that was asked for", "registry/manifest.go", `if strings.HasPrefix(want, "sha256:") && m.Digest.String() != want {`, "if false {", "TestPullRefuses"),
		{"download: a blob without an end ends", "layers/download/download.go", "if f.have+int64(len(p)) > f.desc.Size {", "if false {", "./layers/download", "TestBounded"},
		pull("a broken connection costs no byte twice", "registry/blob.go", `h.Set("Range", "bytes="+strconv.FormatInt(b.at, 10)+"-")`, "_ = strconv.FormatInt", "TestPullGoesOnByRange"),
		pull("another process goes on where one stopped", "download/download.go", "f.resumed = st.Size()", "err = file.Truncate(0)", "TestPullGoesOnAfterARestart"),
		pull("what is left is not believed", "distribution/pull.go", "!full && f.Resumed() == 0 {", "!full {", "TestPullDistrustsWhatIsLeft"),
		pull("finished layers are kept", "repo/layer.go", "return keep(g, j.lease, node)", "return nil", "TestLeaseKeepsFinishedLayers"),
		pull("a blob is fetched once for all", "download/download.go", "f.desc.Size == d.Size && !f.drop && !f.Failed() {", "false {", "TestPullsShareTheWork"),
		pull("an image that cannot fit is refused", "distribution/pull.go", "if err := a.Room(total); err != nil {", "if err := error(nil); err != nil {", "TestPullRefusesManifests"),
		pull("what is finished is published though the rest fails", "distribution/pull.go", "err = errors.Join(err, a.Publish(0)) // also if the rest failed", "if err == nil {\n\t\t\terr = a.Publish(0)\n\t\t}", "TestLeaseKeepsFinishedLayers"),
		server("content is checked", "uploads.go", "if got != d {", "if false {", "TestRefusals"),
		server("chunks follow one another", "uploads.go", "if from != u.size {", "if false {", "TestChunks"),
		server("an upload is its repository's", "uploads.go", "if u != nil && u.name == name {", "if u != nil {", "TestChunks"),
		server("uploads are counted", "uploads.go", "if len(s.uploads.open) >= maxUploads {", "if false {", "TestTooManyUploads"),
		server("a blob is its repository's", "blobs.go", "has, err := h.hasBlob(name, d)", `owner, err := h.ownerOf(d); has := owner != ""`, "TestBlobsAreCounted"),
		server("a blob in use stays", "store.go", "if used {", "if false {", "TestBlobsAreCounted"),
		server("passwords are asked for", "server.go", "if !ok || !h.access.Users.Know(name, password) {", "if !ok && !h.access.Users.Know(name, password) {", "TestUsers"),
		server("an unknown user is nobody", "users.go", "[]byte(password)) != nil || !ok {", "[]byte(password)) != nil {", "TestUsers"),
		server("read-only is read-only", "server.go", "if h.access.ReadOnly && r.Method != http.MethodGet && r.Method != http.MethodHead {", "if false {", "TestReadOnly"),
		server("a manifest's parts are here", "manifests.go", "if err := h.checkParts(r, name, doc); err != nil {", "if false {", "TestRefusals"),
		server("left-over blobs are swept", "store.go", "if !named[e.Name()] {", "if false {", "TestContentOutlivesTheServer"),
		{"registry server: passwords need TLS", "rt/images/registryserve.go", `case in.Htpasswd != "" && in.TLSCert == "":`, "case false:", "./rt/images", "TestMayListen"},
		{"registry server: not anybody may push", "rt/images/registryserve.go", `case in.Htpasswd == "" && !in.ReadOnly && !in.AnyoneMayPush:`, "case false:", "./rt/images", "TestMayListen"},
		{"login: credentials are their owner's", "rt/client/dockerconfig/dockerconfig.go", `f, err := os.CreateTemp(filepath.Dir(c.Path), ".config-*")`, `f, err := os.OpenFile(c.Path+".new", os.O_CREATE|os.O_RDWR, 0o644)`, "./rt/client/dockerconfig", "TestDockerConfig"},
	}
}
