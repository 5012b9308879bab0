package oci

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/sandbox"
)

// IsBundle tells whether a name is that of a folder with a config.json in it.
func IsBundle(name string) bool {
	st, err := os.Stat(filepath.Join(name, "config.json"))
	return err == nil && st.Mode().IsRegular()
}

// Plan prints the system calls that starting the bundle would make, as text or as JSON. It changes nothing and needs no
// root.
func Plan(w io.Writer, bundle string, asJSON bool) error {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return fmt.Errorf("parse %s/config.json: %w", bundle, err)
	}
	c := sandbox.Config{ID: filepath.Base(bundle), Spec: &spec, Bundle: bundle}
	if spec.Linux != nil && spec.Linux.CgroupsPath == "" {
		c.CgroupPath = "/" + c.ID // as create has it
	}
	p, err := sandbox.Plan(c)
	if err != nil {
		return fmt.Errorf("plan %s: %w", bundle, err)
	}
	if !asJSON {
		_, err = io.WriteString(w, p.String())
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(p)
}
