// Package configs is the TOML file: one typed schema, its defaults and its checks. A mistake is a Problem with file,
// line, column and the nearest known key; one that lies inside a [container.*] or [image.*] section takes only that
// section away, so that a single bad section never stops the others from starting. It touches nothing but the text.
package configs

import (
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// DefaultPath is where the file lies unless the kernel command line says coble.config=PATH.
const DefaultPath = "/etc/coble/coble.toml"

// Config is the whole file.
type Config struct {
	Hostname  string               `toml:"hostname"`
	Listen    Listen               `toml:"listen"` // where published ports are reached from
	Storage   Storage              `toml:"storage"`
	Boot      Boot                 `toml:"boot"`
	Logs      Logs                 `toml:"logs"`
	Registry  Registry             `toml:"registry"`
	Network   map[string]Network   `toml:"network"`
	Uplink    map[string]Link      `toml:"uplink"`
	Link      map[string]Link      `toml:"link"`
	Image     map[string]Image     `toml:"image"`
	Container map[string]Container `toml:"container"`
}

// Storage is the disk that everything durable lies on.
type Storage struct {
	Device string `toml:"device"` // LABEL=x, UUID=x or /dev/x; empty: the root file system
	FSType string `toml:"fstype"` // default ext4
	Path   string `toml:"path"`   // where it is mounted; default /data

	Pool string `toml:"pool"` // /dev/x: a disk of its own for the layers of driver devmapper

	ImagesMax    Size `toml:"images_max"`    // bytes of all images together; 0: no limit
	ImagesUnused Age  `toml:"images_unused"` // how long an image stays that no container uses; 0: for ever
}

// Boot is about PID 1's work.
type Boot struct {
	Modules []string `toml:"modules"` // kernel modules beside the ones that coble needs
}

// Logs bound every container's log.
type Logs struct {
	MaxSize  Size `toml:"max_size"`  // of one file
	MaxFiles int  `toml:"max_files"` // how many are kept
}

// Registry says how registries are spoken to, and whether this machine is one.
type Registry struct {
	Insecure []string      `toml:"insecure"` // host, host:port or prefix: without TLS, or with any certificate
	Mirrors  []string      `toml:"mirrors"`  // URLs that are asked first for images of docker.io
	Serve    RegistryServe `toml:"serve"`
}

// RegistryServe offers the machine's images to others.
type RegistryServe struct {
	Listen        string `toml:"listen"`   // host:port; empty: not served
	TLSCert       string `toml:"tls_cert"` // file (PEM)
	TLSKey        string `toml:"tls_key"`
	Htpasswd      string `toml:"htpasswd"` // file, with bcrypt hashes
	ReadOnly      bool   `toml:"read_only"`
	AnyoneMayPush bool   `toml:"anyone_may_push"`
}

// Network is a bridge network. Only "default" is known.
type Network struct {
	Subnet string `toml:"subnet"` // IPv4 prefix
	MTU    int    `toml:"mtu"`    // bytes
	Proxy  bool   `toml:"proxy"`  // ports are published by the engine itself, not by rules
}

// Image is unpacked at boot, if it is not there already.
type Image struct {
	Source string `toml:"source"` // docker-archive, or OCI layout as folder or tar
}

// Container is started at boot.
type Container struct {
	Image       string            `toml:"image"`
	Entrypoint  []string          `toml:"entrypoint"`
	Command     []string          `toml:"command"`
	Env         map[string]string `toml:"env"`
	Labels      map[string]string `toml:"labels"`
	Mounts      []string          `toml:"mounts"`  // host:container[:ro]
	Tmpfs       []string          `toml:"tmpfs"`   // path[:options]
	Ports       []string          `toml:"ports"`   // [ip:]host:container[/tcp|/udp]
	Listen      Listen            `toml:"listen"`  // where its ports are reached from; empty: as the file says for all
	Network     string            `toml:"network"` // bridge (default), host, none
	Hostname    string            `toml:"hostname"`
	WorkingDir  string            `toml:"working_dir"`
	User        string            `toml:"user"`
	Memory      Size              `toml:"memory"`
	Disk        Size              `toml:"disk"` // what it may write into its own layer; 0: no limit
	CPUs        float64           `toml:"cpus"` // of one processor
	Pids        int64             `toml:"pids"`
	CapAdd      []string          `toml:"cap_add"`
	CapDrop     []string          `toml:"cap_drop"`
	ReadOnly    bool              `toml:"read_only"`
	Init        bool              `toml:"init"`
	Privileged  bool              `toml:"privileged"`
	Devices     []string          `toml:"devices"` // host[:container[:rwm]]
	Sysctls     map[string]string `toml:"sysctls"`
	Ulimits     map[string]string `toml:"ulimits"` // soft[:hard]
	ShmSize     Size              `toml:"shm_size"`
	Restart     string            `toml:"restart"` // no, always, on-failure[:n], unless-stopped; default always
	After       []string          `toml:"after"`   // containers that are started before this one
	Needs       string            `toml:"needs"`   // "network" or a link: it is started when that is there
	StopSignal  string            `toml:"stop_signal"`
	StopSeconds *int              `toml:"stop_seconds"`

	// What it receives and sends on each of its links at most; 0: no limit.
	BandwidthIn  Rate `toml:"bandwidth_in"`
	BandwidthOut Rate `toml:"bandwidth_out"`
}

// Size is a number of bytes, written as 512, "64KiB", "32MiB" or "1g".
type Size int64

// UnmarshalText reads what go-units reads.
func (s *Size) UnmarshalText(b []byte) error {
	n, err := units.RAMInBytes(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a size: write it as \"32MiB\"", b)
	}
	*s = Size(n)
	return nil
}

// Rate is a number of bits per second, written as tc(8) does: "10mbit", "512kbit" or "1.5gbit", in steps of 1000.
type Rate uint64

// MinRate is the least that a limit may be.
const MinRate = 8000

// UnmarshalText is ParseRate.
func (r *Rate) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRate(string(b))
	return err
}

// ParseRate reads a rate; "0" is none.
func ParseRate(s string) (Rate, error) {
	number := strings.TrimRight(s, "bitkmgBITKMG")
	n, err := strconv.ParseFloat(number, 64)
	factor := 0.0
	for i, unit := range []string{"bit", "kbit", "mbit", "gbit"} {
		if strings.EqualFold(s[len(number):], unit) {
			factor = []float64{1, 1e3, 1e6, 1e9}[i]
		}
	}
	switch {
	case s == "0":
		return 0, nil
	case err != nil || factor == 0 || math.IsNaN(n):
		return 0, fmt.Errorf("%q is not a rate: write it as \"10mbit\", with bit, kbit, mbit or gbit per second", s)
	case n*factor < MinRate || n*factor > 1e12:
		return 0, fmt.Errorf("%q is no rate that can be kept: at least 8kbit, at most 1000gbit", s)
	}
	return Rate(n * factor), nil
}

// Problem is a mistake in the file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 where it has no place
	Section      string // "container.web" where only that section is lost, else empty
	Text         string
}

func (p Problem) Error() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

// Load reads a file. The configuration holds everything that the problems did not take away; err is set only where the
// file cannot be read at all.
func Load(path string) (Config, []Problem, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, nil, fmt.Errorf("read configuration: %w", err)
	}
	c, problems := Parse(path, b)
	return c, problems, nil
}

// Parse is Load without a file: name is what problems call it.
func Parse(name string, text []byte) (Config, []Problem) {
	d := newDocument(name, text)
	c := d.decode()
	d.check(&c)
	sort.SliceStable(d.problems, func(i, j int) bool {
		return d.problems[i].Line*10000+d.problems[i].Column < d.problems[j].Line*10000+d.problems[j].Column
	})
	c.defaults()
	return c, d.problems
}

func (c *Config) defaults() {
	if c.Storage.Path == "" {
		c.Storage.Path = "/data"
	}
	if c.Storage.FSType == "" {
		c.Storage.FSType = "ext4"
	}
	for name, ct := range c.Container {
		if ct.Restart == "" {
			ct.Restart = "always"
		}
		c.Container[name] = ct
	}
}

// Order gives the containers' names so that each comes behind those it names in after. Names are alphabetical within
// a level. Cycles and unknown names are problems that Parse has reported and taken away.
func (c Config) Order() []string {
	var names []string
	for name := range c.Container {
		names = append(names, name)
	}
	slices.Sort(names)
	var order []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		ct, ok := c.Container[name]
		if seen[name] || !ok {
			return
		}
		seen[name] = true
		for _, dep := range ct.After {
			visit(dep)
		}
		order = append(order, name)
	}
	for _, name := range names {
		visit(name)
	}
	return order
}

// nearest is the known key with the fewest edits from the unknown one, or "" where none is near.
func nearest(unknown string, known []string) string {
	best, at := "", len(unknown)/2+1
	for _, k := range known {
		if d := edits(strings.ToLower(unknown), k); d <= at && (best == "" || d < at) {
			best, at = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
