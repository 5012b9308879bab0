// Command size tells how large a binary is, and how much of it each module's code is. It fails above a limit.
package main

import (
	"debug/elf"
	"debug/gosym"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

func main() {
	binary := flag.String("binary", "bin/coble", "file to measure")
	limit := flag.Int64("max", 14<<20, "bytes it may have")
	flag.Parse()
	st, err := os.Stat(*binary)
	if err != nil {
		fatal(err)
	}
	sizes, err := byPackage(*binary)
	if err != nil {
		fatal(err)
	}
	var names []string
	total := uint64(0)
	for n, s := range sizes {
		names = append(names, n)
		total += s
	}
	slices.SortFunc(names, func(a, b string) int { return int(sizes[b]) - int(sizes[a]) })
	for _, n := range names[:min(25, len(names))] {
		fmt.Printf("%9.1f KiB  %s\n", float64(sizes[n])/1024, n)
	}
	fmt.Printf("%9.1f KiB  code in all; the rest is data and tables\n", float64(total)/1024)
	fmt.Printf("%s: %.2f MiB of %.2f\n", *binary, float64(st.Size())/(1<<20), float64(*limit)/(1<<20))
	if st.Size() > *limit {
		fatal(fmt.Errorf("%s is %d bytes too large", *binary, st.Size()-*limit))
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "size:", err)
	os.Exit(1)
}

// byPackage adds up functions by package, from the line table that a stripped Go binary keeps.
func byPackage(path string) (map[string]uint64, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, table := f.Section(".text"), f.Section(".gopclntab")
	if text == nil || table == nil {
		return nil, fmt.Errorf("%s is no Go binary", path)
	}
	data, err := table.Data()
	if err != nil {
		return nil, err
	}
	symbols, err := gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	if err != nil {
		return nil, err
	}
	sizes := map[string]uint64{}
	for _, fn := range symbols.Funcs {
		sizes[module(fn.PackageName())] += fn.End - fn.Entry
	}
	return sizes, nil
}

// module shortens a package to what a reader thinks in: the repository, or the first folder of the standard library.
func module(pkg string) string {
	parts := strings.Split(pkg, "/")
	switch {
	case pkg == "":
		return "(unnamed)"
	case strings.HasPrefix(pkg, "github.com/coble-os/coble"):
		return pkg
	case strings.Contains(parts[0], "."):
		return strings.Join(parts[:min(3, len(parts))], "/")
	}
	return parts[0]
}
