package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Block is what the processes of a group moved to and from one disk, in bytes, since the group was made.
type Block struct {
	Major, Minor  uint64
	Read, Written uint64
}

// Written adds up what went to all disks, in bytes. A disk that stands on another one (loop, device mapper) counts with
// it: what goes through both is there twice.
//
// On v2 the kernel charges what it writes back later to whoever made it dirty, on file systems that can tell (ext4,
// btrfs, xfs, f2fs). On v1 only what a process writes past the cache, or syncs itself, is its own; what the kernel
// writes back on its own account is nobody's (Documentation/admin-guide/cgroup-v2.rst, "Writeback";
// cgroup-v1/blkio-controller.rst).
func (s Stats) Written() (bytes uint64) {
	for _, b := range s.Blocks {
		bytes += b.Written
	}
	return bytes
}

// Written is that of Stats, without reading the rest.
func (g *Group) Written() (bytes uint64, err error) {
	r := reader{g: g}
	return Stats{Blocks: r.blocks()}.Written(), r.err
}

func (r *reader) blocks() []Block {
	if r.g.layout.Unified {
		return blocks2(r.text("io", "io.stat"))
	}
	text := r.text("blkio", "blkio.throttle.io_service_bytes_recursive")
	if text == "" { // Linux before 4.20
		text = r.text("blkio", "blkio.throttle.io_service_bytes")
	}
	return blocks1(text)
}

// blocks2 reads lines "8:0 rbytes=1 wbytes=2 rios=3 …".
func blocks2(text string) (out []Block) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		b, ok := blockNumber(f)
		if !ok {
			continue
		}
		for _, kv := range f[1:] {
			switch k, v, _ := strings.Cut(kv, "="); k {
			case "rbytes":
				b.Read = parse(v)
			case "wbytes":
				b.Written = parse(v)
			}
		}
		if b.Read+b.Written > 0 {
			out = append(out, b)
		}
	}
	return out
}

// blocks1 reads lines "8:0 Write 2", those of one disk together; the line "Total 3" is of all.
func blocks1(text string) (out []Block) {
	var all []Block
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		b, ok := blockNumber(f)
		if !ok || len(f) != 3 {
			continue
		}
		if n := len(all); n == 0 || all[n-1].Major != b.Major || all[n-1].Minor != b.Minor {
			all = append(all, b)
		}
		switch last := &all[len(all)-1]; f[1] {
		case "Read":
			last.Read = parse(f[2])
		case "Write":
			last.Written = parse(f[2])
		}
	}
	for _, b := range all {
		if b.Read+b.Written > 0 {
			out = append(out, b)
		}
	}
	return out
}

func blockNumber(fields []string) (b Block, ok bool) {
	if len(fields) < 2 {
		return b, false
	}
	major, minor, ok := strings.Cut(fields[0], ":")
	if !ok {
		return b, false
	}
	var err1, err2 error
	b.Major, err1 = strconv.ParseUint(major, 10, 32)
	b.Minor, err2 = strconv.ParseUint(minor, 10, 32)
	return b, err1 == nil && err2 == nil
}

// CountDisk has a v1 machine count what groups write to the disk that dir lies on; on v2, or where v1 has no blkio, there
// is nothing to do. Linux counts a disk on v1 only when a limit was set on it once (block/blk-throttle.h,
// blk_should_throtl, since 6.10): so one is set that limits nothing, in the group path, which is made and removed
// again. A file system without a disk of its own (tmpfs, or btrfs, whose device number is no disk's) is left alone.
func CountDisk(path, dir string) error {
	l, err := Detect()
	if err != nil || l.Unified || !l.has("blkio") {
		return err
	}
	disk, err := diskOf(dir)
	if err != nil || disk == "" {
		return err
	}
	g := &Group{Path: path}
	for _, h := range l.Hierarchies {
		if slices.Contains(h.Controllers, "blkio") {
			g.layout.Hierarchies = []Hierarchy{h}
		}
	}
	if err := os.MkdirAll(g.Dirs()[0], 0o755); err != nil {
		return fmt.Errorf("count what is written to disk %s: %w", disk, err)
	}
	err = errors.Join(g.write("blkio", "blkio.throttle.write_bps_device", disk+" 0"), g.Remove())
	if err != nil {
		return fmt.Errorf("count what is written to disk %s: %w", disk, err)
	}
	return nil
}

// diskOf is the number of the whole disk below a folder, as "8:0"; empty where there is none.
func diskOf(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("find disk of %s: %w", dir, err)
	}
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	sys, err := filepath.EvalSymlinks("/sys/dev/block/" + number) // sysfs(5)
	if err != nil {
		return "", nil
	}
	if _, err := os.Stat(sys + "/partition"); err != nil {
		return number, nil
	}
	whole, err := os.ReadFile(filepath.Dir(sys) + "/dev")
	if err != nil {
		return "", fmt.Errorf("find disk of partition %s: %w", number, err)
	}
	return strings.TrimSpace(string(whole)), nil
}
