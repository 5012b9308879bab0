// Package wire parses what the engine sends to the keeper: datagrams of KEY=value
// lines with credentials and descriptors attached. It is a part of the keeper
// that has a folder of its own because its input comes from outside; it does
// nothing but parse.
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const MaxMessage = 8 << 10 // bytes of one datagram

// MaxExtend bounds EXTEND_TIMEOUT_USEC.
const MaxExtend = time.Hour

// Message is one parsed datagram.
type Message struct {
	Ready, Stopping, Reexec bool
	Store, Remove           bool
	Name                    string // FDNAME
	Shutdown                string // poweroff, reboot, halt or empty
	Extend                  time.Duration
	Forget                  []Exit
	PassOn                  []string // lines that concern a service manager above
}

// Exit names an exit by pid and start time (field 22 of proc_pid_stat(5)).
type Exit struct {
	PID   int
	Start uint64
}

// Parse reads KEY=value lines. Unknown keys are left for later
// protocols; a known key with a value that makes no sense refuses the whole.
func Parse(data []byte) (Message, error) {
	var m Message
	if bytes.IndexByte(data, 0) >= 0 {
		return m, errors.New("zero byte")
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			if line == "" {
				continue
			}
			return m, fmt.Errorf("line %.40q without =", line)
		}
		if err := m.set(key, value); err != nil {
			return m, fmt.Errorf("%s: %w", key, err)
		}
		switch key {
		case "READY", "STOPPING", "STATUS", "EXTEND_TIMEOUT_USEC":
			m.PassOn = append(m.PassOn, line)
		}
	}
	if (m.Store || m.Remove) && m.Name == "" {
		return m, errors.New("FDSTORE or FDSTOREREMOVE without FDNAME")
	}
	if m.Store && m.Remove {
		return m, errors.New("FDSTORE together with FDSTOREREMOVE")
	}
	return m, nil
}

func (m *Message) set(key, value string) error {
	switch key {
	case "READY":
		m.Ready = value == "1"
	case "STOPPING":
		m.Stopping = value == "1"
	case "REEXEC":
		m.Reexec = value == "1"
	case "FDSTORE":
		m.Store = value == "1"
	case "FDSTOREREMOVE":
		m.Remove = value == "1"
	case "FDNAME":
		m.Name = value
		return checkName(value)
	case "SHUTDOWN":
		if value != "poweroff" && value != "reboot" && value != "halt" {
			return fmt.Errorf("%.40q is not poweroff, reboot or halt", value)
		}
		m.Shutdown = value
	case "EXTEND_TIMEOUT_USEC":
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return err
		}
		m.Extend = time.Duration(min(n, uint64(MaxExtend/time.Microsecond))) * time.Microsecond
	case "FORGET":
		pid, start, _ := strings.Cut(value, " ")
		p, err := strconv.ParseInt(pid, 10, 32)
		if err != nil {
			return err
		}
		s, err := strconv.ParseUint(start, 10, 64)
		if err != nil {
			return err
		}
		m.Forget = append(m.Forget, Exit{PID: int(p), Start: s})
	}
	return nil
}

// checkName takes what sd_pid_notify_with_fds(3) allows: printable ASCII
// without a colon, at most 255 bytes. "keeper" is the keeper's own.
func checkName(s string) error {
	if s == "" || len(s) > 255 {
		return fmt.Errorf("name of %d bytes", len(s))
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == ':' {
			return fmt.Errorf("byte %#x in a name", s[i])
		}
	}
	if s == "keeper" {
		return errors.New("the name keeper is taken")
	}
	return nil
}

// Control takes credentials and descriptors out of control messages. The
// descriptors are the caller's to close, also when there is an error.
func Control(oob []byte) (*unix.Ucred, []int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, nil, fmt.Errorf("parse control message: %w", err)
	}
	var cred *unix.Ucred
	var fds []int
	for i := range messages {
		if c, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			cred = c
		} else if len(messages[i].Data)%4 != 0 { // x/sys would panic
			return cred, fds, errors.New("parse control message: half a descriptor")
		} else if r, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, r...)
		}
	}
	return cred, fds, nil
}
