// Command mutants takes one defence at a time out of a copy of the tree and demands that a test notices. A defence whose
// test stays green is not held by anything: that is this program's failure. `make mutants` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// mutant is one defence less: old, which must stand once in the file, becomes new, and the tests must fail.
type mutant struct {
	name     string // what is not defended any more
	file     string
	old, new string
	pkg      string // of the tests; with "vm:" before it, they need another kernel than the machine's
	run      string // which of them, as go test -run has it
}

func main() {
	only := flag.String("only", "", "regular expression: just the mutants whose names match")
	list := flag.Bool("list", false, "list their names")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	var chosen []mutant
	for _, m := range table() {
		if match.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	if *list {
		for _, m := range chosen {
			fmt.Printf("%-60s %s\n", m.name, m.file)
		}
		return
	}
	if survived := tryAll(chosen); survived > 0 {
		fmt.Fprintf(os.Stderr, "mutants: %d of %d survived\n", survived, len(chosen))
		os.Exit(1)
	}
	fmt.Printf("%d mutants, each noticed\n", len(chosen))
}

// tryAll returns how many were not noticed.
func tryAll(all []mutant) (survived int) {
	dir, err := os.MkdirTemp("", "coble-mutants-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = copyTree(".", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants: copy the tree:", err)
		return len(all)
	}
	for _, m := range all {
		began := time.Now()
		if err := try(dir, m); err != nil {
			survived++
			fmt.Printf("SURVIVED %s: %v\n", m.name, err)
			continue
		}
		fmt.Printf("noticed  %-60s %5.1f s\n", m.name, time.Since(began).Seconds())
	}
	return survived
}

// testLimit bounds one mutant's tests: one that makes them hang is noticed.
const testLimit = 5 * time.Minute

// try puts the mutant in, runs its tests and puts the file back.
func try(dir string, m mutant) (err error) {
	path := filepath.Join(dir, m.file)
	whole, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(whole), m.old); n != 1 {
		return fmt.Errorf("%s has its text %d times, not once: the table is out of date", m.file, n)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(whole), m.old, m.new, 1)), 0o644); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.WriteFile(path, whole, 0o644)) }()
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	defer cancel()
	out, err := m.test(ctx, dir)
	switch text := string(out); {
	case err != nil && strings.HasPrefix(m.pkg, "vm:") && !strings.Contains(text, "--- FAIL: "+inVM+"/"+strings.TrimPrefix(m.pkg, "vm:./")):
		return fmt.Errorf("the tests did not get as far:\n%s", text)
	case err == nil && (strings.Contains(text, "no tests to run") || strings.Contains(text, "[no test files]")):
		return fmt.Errorf("no test matches %s", m.run)
	case err == nil:
		return errors.New("every test passed")
	case strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]"):
		return fmt.Errorf("it does not compile:\n%s", text)
	}
	return nil
}

// inVM is the test that runs packages in a virtual machine (qemu-tests/tests).
const inVM = "TestDriversAsRoot/amd64-6.12"

// test runs the mutant's tests, here or in a virtual machine.
func (m mutant) test(ctx context.Context, dir string) ([]byte, error) {
	run, pkg, env := m.run, m.pkg, os.Environ()
	if there, is := strings.CutPrefix(m.pkg, "vm:"); is {
		run, pkg, env = inVM, "./qemu-tests/tests", append(env, "COBLE_VM_TESTS="+there, "COBLE_VM_RUN="+m.run)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout", "4m", "-run", run, pkg)
	cmd.Dir, cmd.Env = dir, env
	return cmd.CombinedOutput()
}

// lsFiles asks git for the names of files below a folder.
func lsFiles(dir string, args ...string) ([]string, error) {
	out, err := exec.Command("git", append([]string{"-C", dir, "ls-files", "-z"}, args...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
}

// copyTree copies what git knows of. Go files that it does not know yet are an error: a test that is in none of the copies
// notices nothing.
func copyTree(from, to string) error {
	unknown, err := lsFiles(from, "--others", "--exclude-standard", "--", "*.go")
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("git does not know %s: git add it, or take it away", strings.Join(unknown, ", "))
	}
	names, err := lsFiles(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, and not committed yet
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
