package netcfg

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Holder names the program that has a port of the host's, as "dropbear (pid 412)"; "" if none is found: the socket may be the
// kernel's own.
func Holder(proto, ip string, port uint16) string {
	wanted, _ := netip.ParseAddr(ip)
	sockets := map[string]bool{}
	for _, table := range []string{proto, proto + "6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + table)
		if err != nil {
			continue // no such family
		}
		for line := range strings.Lines(string(b)) {
			if inode, ok := listener(line, proto, wanted, port); ok {
				sockets["socket:["+inode+"]"] = true
			}
		}
	}
	if len(sockets) == 0 {
		return ""
	}
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && sockets[to] {
			pid := strings.Split(f, "/")[2]
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if err == nil {
				return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
			}
		}
	}
	return ""
}

// tcpListen is the state of sockets that listen (linux/net/tcp_states.h).
const tcpListen = "0A"

// listener is pure: the inode of a line of /proc/net/tcp and its like (proc_pid_net(5)), if that is in the way of who wants
// the port, at an address or, if that is not valid, at all.
func listener(line, proto string, wanted netip.Addr, port uint16) (inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || strings.HasPrefix(proto, "tcp") && f[3] != tcpListen {
		return "", false
	}
	host, service, _ := strings.Cut(f[1], ":")
	if p, err := strconv.ParseUint(service, 16, 16); err != nil || uint16(p) != port {
		return "", false
	}
	everywhere := strings.Trim(host, "0") == ""
	if !wanted.IsValid() || wanted.IsUnspecified() || everywhere {
		return f[9], true
	}
	return f[9], strings.EqualFold(host, procAddr(wanted)) || wanted.Is4() && strings.EqualFold(host, procAddr(netip.AddrFrom16(wanted.As16())))
}

// procAddr writes an address as those files have it: in words of the machine's own order.
func procAddr(a netip.Addr) string {
	var out strings.Builder
	b := a.AsSlice()
	for i := 0; i < len(b); i += 4 {
		fmt.Fprintf(&out, "%08X", binary.NativeEndian.Uint32(b[i:]))
	}
	return out.String()
}
