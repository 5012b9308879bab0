package vm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
)

// monitor has QEMU execute one command of its machine protocol that takes no
// arguments.
func (v *VM) monitor(ctx context.Context, command string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", v.qmp)
	if err != nil {
		return fmt.Errorf("reach QEMU's monitor: %w", err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	lines := bufio.NewScanner(conn)
	if !lines.Scan() { // the greeting
		return fmt.Errorf("QEMU's monitor is silent: %v", lines.Err())
	}
	for _, c := range []string{"qmp_capabilities", command} {
		if _, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", c); err != nil {
			return fmt.Errorf("tell QEMU %s: %w", c, err)
		}
		for {
			if !lines.Scan() {
				return fmt.Errorf("QEMU does not answer %s: %v", c, lines.Err())
			}
			if strings.Contains(lines.Text(), `"error"`) {
				return fmt.Errorf("QEMU refuses %s: %s", c, lines.Text())
			}
			if strings.Contains(lines.Text(), `"return"`) {
				break
			}
		}
	}
	return nil
}
