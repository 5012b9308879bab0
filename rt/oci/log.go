package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

// logger writes lines as runc's log does: containerd and Docker look for the last one with level "error".
type logger struct {
	out   *os.File
	file  bool // out is not standard error
	json  bool
	debug bool
}

func newLogger(path, format string, debug bool) (*logger, error) {
	l := &logger{out: os.Stderr, debug: debug}
	switch format {
	case "text":
	case "json":
		l.json = true
	default:
		return nil, fmt.Errorf("invalid log-format: %s", format)
	}
	if path == "" || path == "/dev/stderr" {
		return l, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l.out, l.file = f, true
	return l, nil
}

// line writes one line in one write. A log that can't be written is nobody's help.
func (l *logger) line(level, text string) {
	now := time.Now().UTC().Format(time.RFC3339)
	if l.json {
		b, err := json.Marshal(struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, text, now})
		if err == nil {
			_, _ = l.out.Write(append(b, '\n'))
		}
		return
	}
	_, _ = fmt.Fprintf(l.out, "time=%s level=%s msg=%s\n", strconv.Quote(now), level, strconv.Quote(text))
}

func (l *logger) warn(format string, a ...any) { l.line("warning", fmt.Sprintf(format, a...)) }

func (l *logger) debugf(format string, a ...any) {
	if l.debug {
		l.line("debug", fmt.Sprintf(format, a...))
	}
}

// fatal writes the error that ends the command, to standard error too.
func (l *logger) fatal(text string) {
	l.line("error", text)
	if l.file {
		fmt.Fprintln(os.Stderr, text)
	}
}
