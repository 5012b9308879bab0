package procs

import (
	"fmt"
	"strings"
	"time"
)

// Clock is what columns with times and shares are computed from.
type Clock struct {
	Now    time.Time
	Uptime time.Duration
	Memory int64 // of the machine, bytes
	// UserName gives the name of a user id, or its number.
	UserName func(uid uint32) string
}

// column is one of ps's: its title, and what it shows.
type column struct {
	title string
	show  func(p Process, c Clock) string
}

// Columns reads options of ps: none or -ef, aux, and -o or -eo with names, commas between them, each perhaps with
// =TITLE. What it does not know is an error that names it.
func Columns(args string) ([]string, error) {
	words := strings.Fields(args)
	var names []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch trimmed := strings.TrimPrefix(w, "-"); {
		case strings.HasPrefix(w, "-o") && len(w) > 2:
			names = append(names, strings.Split(w[2:], ",")...)
		case trimmed == "o", trimmed == "eo", trimmed == "axo":
			if i++; i == len(words) {
				return nil, fmt.Errorf("ps option %s: names of columns are missing", w)
			}
			names = append(names, strings.Split(words[i], ",")...)
		case trimmed == "ef", trimmed == "f", trimmed == "e", trimmed == "A":
			if w != "f" && strings.Contains(trimmed, "f") && names == nil {
				names = strings.Split("user=UID,pid,ppid,c,stime,tty,time,cmd", ",")
			}
		case strings.Trim(trimmed, "aux") == "" && strings.Contains(trimmed, "u"):
			names = strings.Split("user,pid,%cpu,%mem,vsz,rss,tty,stat,start,time,command", ",")
		case strings.Trim(trimmed, "ax") == "":
		default:
			return nil, fmt.Errorf("ps option %q is not known: use -ef, aux or -o with names of columns", w)
		}
	}
	if names == nil {
		return Columns("-ef")
	}
	for _, n := range names {
		key, _, _ := strings.Cut(n, "=")
		if _, ok := columnOf(key); !ok {
			return nil, fmt.Errorf("ps column %q is not known: use some of %s", key, known)
		}
	}
	return names, nil
}

const known = "user uid pid ppid pgid sid c %cpu %mem vsz rss tty stat s start stime time etime ni pri nlwp comm cmd args"

// Table makes the titles and a row for each process. names are those that Columns gave.
func Table(names []string, list []Process, c Clock) (titles []string, rows [][]string) {
	var columns []column
	for _, n := range names {
		key, title, given := strings.Cut(n, "=")
		col, _ := columnOf(key)
		if given {
			col.title = title
		}
		columns, titles = append(columns, col), append(titles, col.title)
	}
	for _, p := range list {
		row := make([]string, len(columns))
		for i, col := range columns {
			row[i] = col.show(p, c)
		}
		rows = append(rows, row)
	}
	return titles, rows
}

func number[N int | int64](title string, f func(Process) N) column {
	return column{title, func(p Process, _ Clock) string { return fmt.Sprint(f(p)) }}
}

// columnOf knows the columns by ps's names.
func columnOf(name string) (column, bool) {
	switch strings.ToLower(name) {
	case "user", "euser", "uname":
		return column{"USER", func(p Process, c Clock) string { return c.UserName(p.UID) }}, true
	case "uid", "euid":
		return number("UID", func(p Process) int64 { return int64(p.UID) }), true
	case "pid", "tgid":
		return number("PID", func(p Process) int { return p.Pid }), true
	case "ppid":
		return number("PPID", func(p Process) int { return p.Parent }), true
	case "pgid", "pgrp":
		return number("PGID", func(p Process) int { return p.Group }), true
	case "sid", "sess", "session":
		return number("SID", func(p Process) int { return p.Session }), true
	case "ni", "nice":
		return number("NI", func(p Process) int { return p.Nice }), true
	case "pri":
		return number("PRI", func(p Process) int { return 39 - p.Priority }), true
	case "nlwp", "thcount":
		return number("NLWP", func(p Process) int { return p.Threads }), true
	case "vsz", "vsize":
		return number("VSZ", func(p Process) int64 { return p.Virtual / 1024 }), true
	case "rss", "rssize":
		return number("RSS", func(p Process) int64 { return p.Resident / 1024 }), true
	}
	return textColumn(strings.ToLower(name))
}

func textColumn(name string) (column, bool) {
	switch name {
	case "c":
		return column{"C", func(p Process, c Clock) string { return fmt.Sprintf("%.0f", share(p, c)) }}, true
	case "%cpu", "pcpu":
		return column{"%CPU", func(p Process, c Clock) string { return fmt.Sprintf("%.1f", share(p, c)) }}, true
	case "%mem", "pmem":
		return column{"%MEM", func(p Process, c Clock) string {
			return fmt.Sprintf("%.1f", 100*float64(p.Resident)/float64(max(c.Memory, 1)))
		}}, true
	case "tty", "tt", "tname":
		return column{"TTY", func(p Process, _ Clock) string { return ttyName(p.TTY) }}, true
	case "stat", "s", "state":
		return column{strings.ToUpper(name), func(p Process, _ Clock) string { return p.State }}, true
	case "start", "stime", "start_time", "bsdstart":
		title := "START"
		if name == "stime" {
			title = "STIME"
		}
		return column{title, func(p Process, c Clock) string { return startTime(p, c) }}, true
	case "time", "cputime":
		return column{"TIME", func(p Process, _ Clock) string { return clockTime(p.CPU) }}, true
	case "etime":
		return column{"ELAPSED", func(p Process, c Clock) string { return clockTime(c.Uptime - p.Started) }}, true
	case "comm", "ucmd", "ucomm":
		return column{"COMMAND", func(p Process, _ Clock) string { return p.Name }}, true
	case "cmd":
		return column{"CMD", func(p Process, _ Clock) string { return command(p) }}, true
	case "args", "command":
		return column{"COMMAND", func(p Process, _ Clock) string { return command(p) }}, true
	}
	return column{}, false
}

// command is the command line, or the name in brackets where there is none (a zombie).
func command(p Process) string {
	if len(p.Args) == 0 {
		return "[" + p.Name + "]"
	}
	return strings.Join(p.Args, " ")
}

// share is how much of one processor the process has used since it started, in percent.
func share(p Process, c Clock) float64 {
	return 100 * float64(p.CPU) / float64(max(c.Uptime-p.Started, tick))
}

// ttyName names a terminal by its number (tty_nr of proc_pid_stat(5)).
func ttyName(dev int) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<8|minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	}
	return fmt.Sprintf("%d:%d", major, minor)
}

// startTime is the hour of today, or else the day.
func startTime(p Process, c Clock) string {
	at := c.Now.Add(p.Started - c.Uptime)
	if at.Format(time.DateOnly) == c.Now.Format(time.DateOnly) {
		return at.Format("15:04")
	}
	return at.Format("Jan02")
}

// clockTime is [days-]hours:minutes:seconds.
func clockTime(d time.Duration) string {
	s := int64(d / time.Second)
	days := ""
	if s >= 24*3600 {
		days = fmt.Sprintf("%d-", s/(24*3600))
	}
	return fmt.Sprintf("%s%02d:%02d:%02d", days, s/3600%24, s/60%60, s%60)
}
