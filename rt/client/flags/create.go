package flags

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"
)

// Create are the flags of run and create: docker's, as far as the engine honours them, and coble's own.
type Create struct {
	// What whoever sends the request has to know beside it.
	Name, CIDFile, Pull, Platform string
	TTY, Interactive, AutoRemove  bool

	f        *pflag.FlagSet
	limits   *Limits
	devices  *deviceFlags
	rates    *Rates
	end      Endpoint
	networks []string

	hostname, domainname, user, workdir, entrypoint, restart, stopSignal, logDriver string
	pidMode, ipcMode, utsMode, shmSize                                              string

	env, envFiles, mounts, tmpfs, ports, capAdd, capDrop, labels, addHosts, logOpts, secOpts []string
	groups, sysctls, storageOpts, dns, dnsSearch, dnsOptions                                 []string

	stopSeconds, oomScore                  int
	readOnly, init, privileged, publishAll bool
}

// CreateRequest is Docker's, and what is coble's own.
type CreateRequest struct {
	container.CreateRequest
	Bandwidth Bandwidth
}

// AddCreate declares them.
func AddCreate(f *pflag.FlagSet) *Create {
	c := &Create{f: f, limits: AddLimits(f), devices: addDeviceFlags(f), rates: AddRates(f)}
	f.StringVar(&c.Name, "name", "", "name of the container (default: made up)")
	f.StringVarP(&c.hostname, "hostname", "h", "", "its host name")
	f.StringVar(&c.domainname, "domainname", "", "its domain name")
	f.StringVarP(&c.user, "user", "u", "", "user[:group] to run as")
	f.StringVarP(&c.workdir, "workdir", "w", "", "working directory")
	f.StringVar(&c.entrypoint, "entrypoint", "", "program instead of the image's entrypoint")
	f.StringArrayVar(&c.networks, "network", nil, "bridge, host, none, container:NAME or one made by network create; again for one more")
	c.end = AddEndpoint(f, "network-")
	f.BoolVarP(&c.publishAll, "publish-all", "P", false, "publish every port that the image exposes, on a free one")
	f.StringArrayVar(&c.dnsSearch, "dns-search", nil, "domain in which names are looked for")
	f.StringArrayVar(&c.dnsOptions, "dns-option", nil, "option of the resolver")
	f.StringVar(&c.pidMode, "pid", "", "process namespace: host or container:NAME")
	f.StringVar(&c.ipcMode, "ipc", "", "private, shareable, host, none or container:NAME")
	f.StringVar(&c.utsMode, "uts", "", "host for the host's names")
	f.StringVar(&c.shmSize, "shm-size", "", "size of /dev/shm (64m)")
	f.StringArrayVar(&c.groups, "group-add", nil, "more groups to run with")
	f.StringArrayVar(&c.sysctls, "sysctl", nil, "name=value")
	f.IntVar(&c.oomScore, "oom-score-adj", 0, "how soon it is killed when memory runs out, -1000 to 1000")
	f.BoolVar(&c.privileged, "privileged", false, "all capabilities and devices, no filter")
	f.StringVar(&c.restart, "restart", "no", "no, always, unless-stopped or on-failure[:n]")
	f.StringVar(&c.stopSignal, "stop-signal", "", "signal that stops it")
	f.StringVar(&c.logDriver, "log-driver", "", "json-file, local or none")
	f.StringVar(&c.Pull, "pull", "missing", "when to pull the image: always, missing or never")
	f.StringVar(&c.Platform, "platform", "", "os/architecture[/variant] that the image must be for")
	f.StringVar(&c.CIDFile, "cidfile", "", "file to write the id to")
	f.StringArrayVarP(&c.env, "env", "e", nil, "NAME=value, or NAME for the caller's value")
	f.StringArrayVar(&c.envFiles, "env-file", nil, "file of such lines")
	f.StringArrayVarP(&c.mounts, "volume", "v", nil, "host-path:container-path[:ro]")
	f.StringArrayVar(&c.tmpfs, "tmpfs", nil, "path[:options]")
	f.StringArrayVarP(&c.ports, "publish", "p", nil, "[ip:][host-port:]container-port[/udp]")
	f.StringArrayVar(&c.capAdd, "cap-add", nil, "capability to add")
	f.StringArrayVar(&c.capDrop, "cap-drop", nil, "capability to take away")
	f.StringArrayVarP(&c.labels, "label", "l", nil, "key=value")
	f.StringArrayVar(&c.addHosts, "add-host", nil, "name:address for /etc/hosts")
	f.StringArrayVar(&c.dns, "dns", nil, "name server")
	f.StringArrayVar(&c.logOpts, "log-opt", nil, "max-size=… or max-file=…")
	f.StringArrayVar(&c.secOpts, "security-opt", nil, "no-new-privileges, seccomp=unconfined or =FILE")
	f.StringArrayVar(&c.storageOpts, "storage-opt", nil, "size=…: what it may write into its own layer")
	f.IntVar(&c.stopSeconds, "stop-timeout", 10, "seconds between stop signal and kill")
	f.BoolVarP(&c.TTY, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&c.Interactive, "interactive", "i", false, "keep its standard input open")
	f.BoolVar(&c.readOnly, "read-only", false, "its root file system cannot be written")
	f.BoolVar(&c.init, "init", false, "run the command under a small init that passes signals on and reaps")
	f.BoolVar(&c.AutoRemove, "rm", false, "remove it when it ends")
	return c
}

// Request turns flags and arguments, of which the first is the image, into the wire's create request. It reads the files of
// --env-file and of seccomp profiles.
func (c *Create) Request(args []string) (CreateRequest, error) {
	conf := &container.Config{
		Image: args[0], Cmd: args[1:], Hostname: c.hostname, Domainname: c.domainname, User: c.user, WorkingDir: c.workdir, Tty: c.TTY,
		OpenStdin: c.Interactive, StopSignal: c.stopSignal, Labels: map[string]string{},
	}
	host := &container.HostConfig{
		Binds: c.mounts, CapAdd: c.capAdd, CapDrop: c.capDrop, ReadonlyRootfs: c.readOnly,
		AutoRemove: c.AutoRemove, ExtraHosts: c.addHosts, Privileged: c.privileged, OomScoreAdj: c.oomScore, GroupAdd: c.groups,
		PidMode: container.PidMode(c.pidMode), IpcMode: container.IpcMode(c.ipcMode), UTSMode: container.UTSMode(c.utsMode),
		LogConfig: container.LogConfig{Type: c.logDriver, Config: map[string]string{}},
	}
	if c.init {
		host.Init = &c.init
	}
	req := CreateRequest{CreateRequest: container.CreateRequest{Config: conf, HostConfig: host}}
	if c.f.Changed("entrypoint") {
		conf.Entrypoint = []string{c.entrypoint}
	}
	if c.f.Changed("stop-timeout") {
		conf.StopTimeout = &c.stopSeconds
	}
	policy, count, _ := strings.Cut(c.restart, ":")
	host.RestartPolicy.Name = container.RestartPolicyMode(policy)
	fmt.Sscanf(count, "%d", &host.RestartPolicy.MaximumRetryCount)
	KeyValues(c.labels, conf.Labels)
	KeyValues(c.logOpts, host.LogConfig.Config)
	if len(c.storageOpts) > 0 {
		host.StorageOpt = map[string]string{}
		KeyValues(c.storageOpts, host.StorageOpt)
	}
	if len(c.sysctls) > 0 {
		host.Sysctls = map[string]string{}
		KeyValues(c.sysctls, host.Sysctls)
	}
	var err error
	if req.Bandwidth, err = c.rates.Read(); err != nil {
		return req, err
	}
	if req.NetworkingConfig, err = c.networking(host); err != nil {
		return req, err
	}
	return req, c.fill(host, conf)
}

// fill sets what needs reading: limits, devices, files, addresses, ports.
func (c *Create) fill(host *container.HostConfig, conf *container.Config) (err error) {
	if err := c.limits.Into(&host.Resources); err != nil {
		return err
	}
	if err := c.devices.into(&host.Resources); err != nil {
		return err
	}
	if host.ShmSize, err = bytesOf("size of /dev/shm", c.shmSize); err != nil {
		return err
	}
	if host.SecurityOpt, err = securityOptions(c.secOpts); err != nil {
		return err
	}
	host.PublishAllPorts, host.DNSSearch, host.DNSOptions = c.publishAll, c.dnsSearch, c.dnsOptions
	for _, s := range c.dns {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("name server %q: %w", s, err)
		}
		host.DNS = append(host.DNS, a)
	}
	for _, t := range c.tmpfs {
		if host.Tmpfs == nil {
			host.Tmpfs = map[string]string{}
		}
		p, opts, _ := strings.Cut(t, ":")
		host.Tmpfs[p] = opts
	}
	if conf.Env, err = environment(c.envFiles, c.env); err != nil {
		return err
	}
	return publish(c.ports, host, conf)
}

// securityOptions puts a seccomp profile's text in the place of its file's name, which the engine could not read.
func securityOptions(opts []string) ([]string, error) {
	var out []string
	for _, o := range opts {
		name, ok := strings.CutPrefix(o, "seccomp=")
		if ok && name != "unconfined" && name != "builtin" {
			text, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("read seccomp profile: %w", err)
			}
			o = "seccomp=" + string(text)
		}
		out = append(out, o)
	}
	return out, nil
}

// environment reads files and flags; a name alone takes the caller's value.
func environment(files, flags []string) ([]string, error) {
	var lines []string
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for l := range strings.Lines(string(b)) {
			if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
				lines = append(lines, l)
			}
		}
	}
	var env []string
	for _, l := range append(lines, flags...) {
		if strings.Contains(l, "=") {
			env = append(env, l)
		} else if v, ok := os.LookupEnv(l); ok {
			env = append(env, l+"="+v)
		}
	}
	return env, nil
}

// publish reads [ip:][host:]container[/proto].
func publish(ports []string, host *container.HostConfig, conf *container.Config) error {
	for _, s := range ports {
		spec, proto, _ := strings.Cut(s, "/")
		b := network.PortBinding{}
		inside := spec
		if i := strings.LastIndex(spec, ":"); i >= 0 {
			inside, b.HostPort = spec[i+1:], spec[:i]
		}
		if i := strings.LastIndex(b.HostPort, ":"); i >= 0 {
			a, err := netip.ParseAddr(strings.Trim(b.HostPort[:i], "[]"))
			if err != nil {
				return fmt.Errorf("publish %q: %w", s, err)
			}
			b.HostIP, b.HostPort = a, b.HostPort[i+1:]
		}
		p, err := network.ParsePort(inside + "/" + proto)
		if err != nil {
			return fmt.Errorf("publish %q: %w", s, err)
		}
		if host.PortBindings == nil {
			host.PortBindings, conf.ExposedPorts = network.PortMap{}, network.PortSet{}
		}
		host.PortBindings[p] = append(host.PortBindings[p], b)
		conf.ExposedPorts[p] = struct{}{}
	}
	return nil
}
