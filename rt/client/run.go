package client

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/layers/reference"
)

// createFlags are docker's, as far as the engine honours them.
type createFlags struct {
	name, hostname, user, workdir, entrypoint, restart, stopSignal, logDriver, cidfile, domainname string
	env, mounts, tmpfs, ports, capAdd, capDrop, labels, addHosts, logOpts, secOpts, envFiles, dns  []string
	stopSeconds                                                                                    int
	tty, interactive, readOnly, autoRemove, init                                                   bool
	f                                                                                              *pflag.FlagSet
	limits                                                                                         *limitFlags
	devices                                                                                        *deviceFlags
	rates                                                                                          *bandwidthFlags
	pidMode, ipcMode, utsMode, shmSize, pull, platform                                             string
	groups, sysctls, storageOpts                                                                   []string
	oomScore                                                                                       int
	privileged, publishAll                                                                         bool
	networks, dnsSearch, dnsOptions                                                                []string
	end                                                                                            endpointFlags
}

// createRequest is Docker's, and what is coble's own.
type createRequest struct {
	container.CreateRequest
	Bandwidth bandwidth
}

func addCreateFlags(f *pflag.FlagSet) *createFlags {
	c := &createFlags{f: f, limits: addLimitFlags(f), devices: addDeviceFlags(f), rates: addBandwidthFlags(f)}
	f.StringVar(&c.name, "name", "", "name of the container (default: made up)")
	f.StringVarP(&c.hostname, "hostname", "h", "", "its host name")
	f.StringVar(&c.domainname, "domainname", "", "its domain name")
	f.StringVarP(&c.user, "user", "u", "", "user[:group] to run as")
	f.StringVarP(&c.workdir, "workdir", "w", "", "working directory")
	f.StringVar(&c.entrypoint, "entrypoint", "", "program instead of the image's entrypoint")
	f.StringArrayVar(&c.networks, "network", nil, "bridge, host, none, container:NAME or one made by network create; again for one more")
	c.end = addEndpointFlags(f, "network-")
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
	f.StringVar(&c.pull, "pull", "missing", "when to pull the image: always, missing or never")
	f.StringVar(&c.platform, "platform", "", "os/architecture[/variant] that the image must be for")
	f.StringVar(&c.cidfile, "cidfile", "", "file to write the id to")
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
	f.BoolVarP(&c.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&c.interactive, "interactive", "i", false, "keep its standard input open")
	f.BoolVar(&c.readOnly, "read-only", false, "its root file system cannot be written")
	f.BoolVar(&c.init, "init", false, "run the command under a small init that passes signals on and reaps")
	f.BoolVar(&c.autoRemove, "rm", false, "remove it when it ends")
	return c
}

// request turns flags and arguments into the wire's create request.
func (c *createFlags) request(args []string) (createRequest, error) {
	conf := &container.Config{
		Image: args[0], Cmd: args[1:], Hostname: c.hostname, Domainname: c.domainname, User: c.user, WorkingDir: c.workdir, Tty: c.tty,
		OpenStdin: c.interactive, StopSignal: c.stopSignal, Labels: map[string]string{},
	}
	host := &container.HostConfig{
		Binds: c.mounts, CapAdd: c.capAdd, CapDrop: c.capDrop, ReadonlyRootfs: c.readOnly,
		AutoRemove: c.autoRemove, ExtraHosts: c.addHosts, Privileged: c.privileged, OomScoreAdj: c.oomScore, GroupAdd: c.groups,
		PidMode: container.PidMode(c.pidMode), IpcMode: container.IpcMode(c.ipcMode), UTSMode: container.UTSMode(c.utsMode),
		LogConfig: container.LogConfig{Type: c.logDriver, Config: map[string]string{}},
	}
	if c.init {
		host.Init = &c.init
	}
	req := createRequest{CreateRequest: container.CreateRequest{Config: conf, HostConfig: host}}
	if c.f.Changed("entrypoint") {
		conf.Entrypoint = []string{c.entrypoint}
	}
	if c.f.Changed("stop-timeout") {
		conf.StopTimeout = &c.stopSeconds
	}
	policy, count, _ := strings.Cut(c.restart, ":")
	host.RestartPolicy.Name = container.RestartPolicyMode(policy)
	fmt.Sscanf(count, "%d", &host.RestartPolicy.MaximumRetryCount)
	keyValues(c.labels, conf.Labels)
	keyValues(c.logOpts, host.LogConfig.Config)
	if len(c.storageOpts) > 0 {
		host.StorageOpt = map[string]string{}
		keyValues(c.storageOpts, host.StorageOpt)
	}
	if len(c.sysctls) > 0 {
		host.Sysctls = map[string]string{}
		keyValues(c.sysctls, host.Sysctls)
	}
	var err error
	if req.Bandwidth, err = c.rates.read(); err != nil {
		return req, err
	}
	if req.NetworkingConfig, err = c.networking(host); err != nil {
		return req, err
	}
	return req, c.fill(host, conf)
}

func keyValues(list []string, into map[string]string) {
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		into[k] = v
	}
}

// fill sets what needs reading: limits, devices, files, addresses, ports.
func (c *createFlags) fill(host *container.HostConfig, conf *container.Config) (err error) {
	if err := c.limits.into(&host.Resources); err != nil {
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

func (a *app) create(ctx context.Context, c *createFlags, req createRequest) (string, error) {
	if c.cidfile != "" {
		if _, err := os.Stat(c.cidfile); err == nil {
			return "", fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", c.cidfile)
		}
	}
	out, err := a.createPulling(ctx, c, req)
	if err != nil {
		return "", err
	}
	for _, w := range out.Warnings {
		fmt.Fprintln(a.err, "Warning:", w)
	}
	if c.cidfile != "" {
		return out.ID, os.WriteFile(c.cidfile, []byte(out.ID), 0o644)
	}
	return out.ID, nil
}

// createPulling pulls the image first, if it is missing or that is asked for.
func (a *app) createPulling(ctx context.Context, c *createFlags, req createRequest) (out container.CreateResponse, err error) {
	q := url.Values{"name": {c.name}}
	if c.platform != "" {
		q.Set("platform", c.platform)
	}
	create := func() error { return a.Call(ctx, "POST", "/containers/create", q, req, &out) }
	switch c.pull {
	case "never":
		return out, create()
	case "always":
	case "missing":
		if err = create(); !isNoImage(err) {
			return out, err
		}
	default:
		return out, fmt.Errorf("--pull %q: want always, missing or never", c.pull)
	}
	named, nerr := reference.Parse(req.Image)
	if nerr != nil {
		if err == nil {
			err = fmt.Errorf("image name %q: %w", req.Image, nerr)
		}
		return out, err
	}
	named = named.Latest()
	if c.pull == "missing" {
		fmt.Fprintf(a.err, "Unable to find image '%s' locally\n", named.Familiar())
	}
	if err := a.pull(ctx, named.String(), c.platform, a.err); err != nil {
		return out, err
	}
	return out, create()
}

func createVerb(f *pflag.FlagSet) runner {
	c := addCreateFlags(f)
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 1, -1, "an image"); err != nil {
			return err
		}
		req, err := c.request(args)
		if err != nil {
			return err
		}
		id, err := a.create(ctx, c, req)
		if err == nil {
			fmt.Fprintln(a.out, id)
		}
		return err
	}
}

func runVerb(f *pflag.FlagSet) runner {
	c := addCreateFlags(f)
	detach := f.BoolP("detach", "d", false, "do not wait: print the id")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 1, -1, "an image"); err != nil {
			return err
		}
		req, err := c.request(args)
		if err != nil {
			return err
		}
		if !*detach {
			req.AttachStdout, req.AttachStderr, req.AttachStdin, req.StdinOnce = true, true, c.interactive, c.interactive
		}
		id, err := a.create(ctx, c, req)
		if err != nil {
			return err
		}
		if *detach {
			if err := a.Call(ctx, "POST", path(id, "start"), nil, nil, nil); err != nil {
				return startStatus(err)
			}
			fmt.Fprintln(a.out, id)
			return nil
		}
		return a.startAttached(ctx, id, c.tty, c.interactive, c.autoRemove)
	}
}
