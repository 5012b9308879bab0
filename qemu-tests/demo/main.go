// Command demo boots an appliance in QEMU, twice from the same disk: a web server and an MQTT broker out of one TOML
// file. It waits until both answer from outside, prints what each boot spent its time on, and leaves the console to
// whoever sits before it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/qemu-tests/vm"
)

const config = `# A gateway with a web page and an MQTT broker.
hostname = "gateway"

[storage]
device = "LABEL=data"

[network.default]
subnet = "10.88.0.0/24"

[uplink.eth0]
address = "10.0.2.15/24"
gateway = "10.0.2.2"

[image.web]
source = "/data/images/web.tar"     # a docker-archive

[image.broker]
source = "/data/images/broker"      # an OCI layout

[container.broker]
image  = "broker"
ports  = ["1883:1883"]
memory = "32MiB"
pids   = 32

[container.web]
image     = "web"
command   = ["nginx", "-g", "daemon off;"]
env       = { TZ = "UTC" }
mounts    = ["/data/www:/var/www:ro"]
ports     = ["80:80/tcp"]
memory    = "32MiB"
cpus      = 0.5
pids      = 64
read_only = true
tmpfs     = ["/run", "/var/lib/nginx", "/var/log/nginx"]
after     = ["broker"]
`

func main() {
	coble := flag.String("coble", "bin/coble", "the binary to boot")
	ci := flag.Bool("ci", false, "end after the second boot")
	svg := flag.String("svg", "boot.svg", "picture of the first boot")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *coble, *svg, *ci); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, coble, svg string, ci bool) error {
	dir, err := os.MkdirTemp("", "coble-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("kernel: Debian's 6.1 cloud kernel")
	kernel, err := vm.FetchKernel(ctx, "amd64", "6.1")
	if err != nil {
		return err
	}
	fmt.Println("images: nginx and mosquitto from Debian's packages over busybox")
	data := filepath.Join(dir, "data")
	if err := makeImages(ctx, filepath.Join(data, "images")); err != nil {
		return err
	}
	if err := page(filepath.Join(data, "www")); err != nil {
		return err
	}
	d := &demo{web: freePort(), broker: freePort(), svg: svg}
	d.appliance, err = vm.MakeAppliance(ctx, dir, vm.ApplianceOptions{
		Kernel: kernel, Coble: coble, TOML: config, DataDir: data, Shell: true, MemMiB: 256,
		Forwards: []vm.Forward{{Host: d.web, Guest: 80}, {Host: d.broker, Guest: 1883}},
	})
	if err != nil {
		return err
	}
	if err := d.boot(ctx, "first boot (unpacks the images)", true); err != nil {
		return err
	}
	if err := d.boot(ctx, "second boot (same disk)", ci); err != nil || ci {
		return err
	}
	return nil
}

// page is the web page.
func page(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "index.html"), []byte("<h1>coble serves</h1>\n"), 0o644)
}

type demo struct {
	appliance   *vm.Appliance
	web, broker int // ports of 127.0.0.1
	svg         string
}

// boot shows one boot; with end it powers the machine off, else it hands the console over.
func (d *demo) boot(ctx context.Context, title string, end bool) error {
	fmt.Printf("\n== %s\n", title)
	start := time.Now()
	limit, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	v, err := vm.Start(ctx, d.appliance.Options)
	if err != nil {
		return err
	}
	defer v.Kill()
	if err := d.answers(limit, v, start); err != nil {
		return fmt.Errorf("%w\nthe console said:\n%s", err, v.Console())
	}
	if err := d.chart(limit, v); err != nil {
		return err
	}
	if !end {
		return d.hand(ctx, v)
	}
	if err := v.Send("coble poweroff"); err != nil {
		return err
	}
	if err := v.Wait(limit); err != nil {
		return fmt.Errorf("power off: %w\n%s", err, v.Console())
	}
	fmt.Println("powered off")
	return nil
}

// answers waits for both services.
func (d *demo) answers(ctx context.Context, v *vm.VM, start time.Time) error {
	text, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/", d.web))
	if err != nil {
		return fmt.Errorf("the web page does not come: %w", err)
	}
	fmt.Printf("web:    %q after %.1f s of QEMU\n", strings.TrimSpace(text), time.Since(start).Seconds())
	if err := roundTrip(ctx, fmt.Sprintf("127.0.0.1:%d", d.broker)); err != nil {
		return fmt.Errorf("the MQTT message does not come back: %w", err)
	}
	fmt.Printf("broker: a message made the round trip after %.1f s of QEMU\n", time.Since(start).Seconds())
	return nil
}

// get asks until the page comes.
func get(ctx context.Context, url string) (string, error) {
	for {
		text, err := tryGet(ctx, url)
		if err == nil {
			return text, nil
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tryGet(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// chart shows the appliance's own account of its boot, in words and as a picture.
func (d *demo) chart(ctx context.Context, v *vm.VM) error {
	text, err := ask(ctx, v, "coble boot; coble ps")
	if err != nil {
		return err
	}
	fmt.Print(text)
	if d.svg == "" {
		return nil
	}
	picture, err := ask(ctx, v, "coble boot --svg /tmp/boot.svg; cat /tmp/boot.svg")
	if err != nil {
		return err
	}
	i := strings.Index(picture, "<svg")
	if i < 0 {
		return fmt.Errorf("no picture came: %s", picture)
	}
	if err := os.WriteFile(d.svg, []byte(picture[i:]), 0o644); err != nil {
		return err
	}
	fmt.Println("picture:", d.svg)
	d.svg = ""
	return nil
}

// ask types a command on the console and returns what it prints.
func ask(ctx context.Context, v *vm.VM, command string) (string, error) {
	if err := v.Send("echo be''gin; " + command + "; echo e''nd"); err != nil {
		return "", err
	}
	m, err := v.WaitFor(ctx, `(?s)begin\r?\n(.*?)\r?\nend\r?\n`)
	if err != nil {
		return "", err
	}
	return regexp.MustCompile(`\r`).ReplaceAllString(m[1], "") + "\n", nil
}

// hand gives the console to the terminal until the machine is switched off.
func (d *demo) hand(ctx context.Context, v *vm.VM) error {
	fmt.Printf("\nThe page is at http://127.0.0.1:%d/, the broker at 127.0.0.1:%d.\n", d.web, d.broker)
	fmt.Println("This is the appliance's console. Try: coble status, coble ps, coble logs web, coble plan web. `coble poweroff` ends it.")
	shown := len(v.Console())
	lines := make(chan string)
	go func() {
		defer close(lines)
		buf := make([]byte, 4096)
		for {
			n, err := os.Stdin.Read(buf)
			for l := range strings.Lines(string(buf[:n])) {
				lines <- strings.TrimRight(l, "\n")
			}
			if err != nil {
				return
			}
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- v.Wait(ctx) }()
	_ = v.Send("")
	for {
		select {
		case l, ok := <-lines:
			if !ok {
				lines = nil
				continue
			}
			_ = v.Send(l)
		case <-time.After(50 * time.Millisecond):
		case err := <-ended:
			fmt.Println(v.Console()[shown:])
			return err
		}
		text := v.Console()
		fmt.Print(text[shown:])
		shown = len(text)
	}
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
