package mkimage

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Modules adds the named kernel modules, everything that they depend on, and a
// modules.dep that modprobe and u-root's kmodule understand, from an unpacked
// kernel: lib is its lib/modules/RELEASE. Modules are stored uncompressed:
// unpacking xz on the appliance costs more time than reading more bytes. Names that are
// built into the kernel need no file; the others that the kernel does not have
// are returned, in order.
func (im *Image) Modules(lib string, names []string) (missing []string, err error) {
	release := filepath.Base(lib)
	found, err := indexModules(lib)
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(lib, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	builtins := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		builtins[moduleName(strings.TrimSpace(line))] = true
	}
	c := closure{lib: lib, found: found, builtin: builtins, deps: map[string][]string{}, data: map[string][]byte{}}
	for _, name := range names {
		name = normal(name)
		if builtins[name] {
			continue
		}
		if found[name] == "" {
			missing = append(missing, name)
			continue
		}
		if err := c.add(name); err != nil {
			return nil, err
		}
	}
	to := "lib/modules/" + release
	var dep strings.Builder
	for _, name := range c.order {
		file := plainPath(found[name])
		im.File(path.Join(to, file), 0o644, c.data[name])
		fmt.Fprintf(&dep, "%s:", file)
		for _, d := range c.all(name) {
			fmt.Fprintf(&dep, " %s", plainPath(found[d]))
		}
		dep.WriteByte('\n')
	}
	im.File(path.Join(to, "modules.dep"), 0o644, []byte(dep.String()))
	im.File(path.Join(to, "modules.builtin"), 0o644, builtin)
	return missing, nil
}

// closure collects modules, dependencies first.
type closure struct {
	lib     string
	found   map[string]string // name to path below lib
	builtin map[string]bool
	order   []string
	deps    map[string][]string // direct ones
	data    map[string][]byte
}

func (c *closure) add(name string) error {
	if _, ok := c.deps[name]; ok {
		return nil
	}
	data, err := readModule(filepath.Join(c.lib, c.found[name]))
	if err != nil {
		return err
	}
	deps, err := dependencies(data)
	if err != nil {
		return fmt.Errorf("read dependencies of %s: %w", name, err)
	}
	deps = slices.DeleteFunc(deps, func(d string) bool { return c.builtin[d] })
	c.deps[name], c.data[name] = deps, data
	for _, d := range deps {
		if c.found[d] == "" {
			return fmt.Errorf("module %s needs %s, which is not in %s", name, d, c.lib)
		}
		if err := c.add(d); err != nil {
			return err
		}
	}
	c.order = append(c.order, name)
	return nil
}

// all lists what name needs, the farthest last as in modules.dep(5).
func (c *closure) all(name string) []string {
	var list []string
	for i := len(c.order) - 1; i >= 0; i-- {
		if c.needs(name, c.order[i]) {
			list = append(list, c.order[i])
		}
	}
	return list
}

func (c *closure) needs(name, other string) bool {
	for _, d := range c.deps[name] {
		if d == other || c.needs(d, other) {
			return true
		}
	}
	return false
}

// indexModules maps module names to paths below lib.
func indexModules(lib string) (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(lib, "kernel"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := moduleName(p); name != "" && d.Type().IsRegular() {
			found[name], err = filepath.Rel(lib, p)
		}
		return err
	})
	return found, err
}

// moduleName is the name of the module in a file, empty when it is none.
func moduleName(file string) string {
	base := plainPath(filepath.Base(file))
	if name, ok := strings.CutSuffix(base, ".ko"); ok {
		return normal(name)
	}
	return ""
}

func plainPath(file string) string {
	for _, suffix := range []string{".xz", ".gz", ".zst"} {
		file = strings.TrimSuffix(file, suffix)
	}
	return file
}

// normal makes the two ways to write a module's name one.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

func readModule(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(file) {
	case ".xz":
		r, err = xz.NewReader(f)
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f); err == nil {
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return data, nil
}

// dependencies reads depends= out of a module's .modinfo, the
// zero-separated KEY=value strings that modinfo(8) shows.
func dependencies(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var deps []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			for d := range strings.SplitSeq(list, ",") {
				deps = append(deps, normal(d))
			}
		}
	}
	return deps, nil
}
