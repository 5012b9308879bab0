package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Build compiles a static main package of this module for linux on arch to the
// file out.
func Build(ctx context.Context, arch, pkg, out string) error {
	return gotool(ctx, arch, "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
}

// BuildTest compiles the tests of a package of this module.
func BuildTest(ctx context.Context, arch, pkg, out string) error {
	return gotool(ctx, arch, "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
}

func gotool(ctx context.Context, arch string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
