package vm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
)

// SetLink takes the carrier of a network device away or gives it back, by the
// name of its netdev: n0 is the one that every machine has.
func (v *VM) SetLink(ctx context.Context, netdev string, up bool) error {
	return v.monitor(ctx, "set_link", fmt.Sprintf(`, "arguments": {"name": %q, "up": %t}`, netdev, up))
}

// monitor has QEMU execute one command of its machine protocol, with more
// members of the request's object.
func (v *VM) monitor(ctx context.Context, command, more string) error {
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
		request := fmt.Sprintf(`{"execute": %q`, c)
		if c == command {
			request += more
		}
		if _, err := fmt.Fprintln(conn, request+"}"); err != nil {
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
