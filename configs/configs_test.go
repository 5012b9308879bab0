package configs

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const good = `hostname = "gateway"

[network.default]
subnet = "10.88.0.0/24"

[image.web]
source = "/images/web.tar"

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
restart   = "always"
after     = ["broker"]

[container.broker]
image = "broker"
`

func TestGood(t *testing.T) {
	c, problems := Parse("coble.toml", []byte(good))
	require.Empty(t, problems)
	require.Equal(t, Size(32<<20), c.Container["web"].Memory)
	require.Equal(t, []string{"broker", "web"}, c.Order())
	require.Equal(t, "always", c.Container["broker"].Restart)
}

// Each mistake is told with its place, and costs no more than its section.
func TestMistakes(t *testing.T) {
	rows := []struct {
		name, from, to string
		want           string
		lost           string // container that is gone
	}{
		{"unknown key", "memory ", "memori ", `coble.toml:15:1: unknown key container.web.memori; did you mean "memory"?`, "web"},
		{"unknown top key", `hostname =`, `hostnme =`, `coble.toml:1:1: unknown key hostnme; did you mean "hostname"?`, ""},
		{"wrong type", `cpus      = 0.5`, `cpus      = "half"`, `coble.toml:16:13: key container.web.cpus:`, "web"},
		{"malformed", `pids      = 64`, `pids      = = 64`, `coble.toml:17:`, "web"},
		{"bad size", `"32MiB"`, `"32 lots"`, `coble.toml:15:13:`, "web"},
		{"bad rate", "pids      = 64", "bandwidth_in = \"10mbps\"", `coble.toml:17:16: key container.web.bandwidth_in: "10mbps" is not a rate: write it as "10mbit"`, "web"},
		{"too slow", "pids      = 64", "bandwidth_out = \"1kbit\"", `coble.toml:17:17: key container.web.bandwidth_out: "1kbit" is no rate that can be kept: at least 8kbit`, "web"},
		{"no link", "pids      = 64", "network = \"host\"\nbandwidth_out = \"1mbit\"", `coble.toml:17:1: container web has a limit of bandwidth, and in the host's network no link`, "web"},
		{"bad age", "hostname = \"gateway\"", "[storage]\nimages_unused = \"30 days\"", `coble.toml:2:17:`, ""},
		{"bad pool", "hostname = \"gateway\"", "[storage]\npool = \"sdb\"", `coble.toml:2:1: pool "sdb" is no block device`, ""},
		{"no image", "image     = \"web\"\n", "\n", `coble.toml:9:2: container web has no image`, "web"},
		{"unknown after", `["broker"]`, `["brokr"]`, `coble.toml:20:1: container web starts after "brokr"`, ""},
		{"cycle", `image = "broker"`, "image = \"broker\"\nafter = [\"web\"]", `containers wait for each other: broker after web after broker`, "broker"},
		{"port twice", `image = "broker"`, "image = \"broker\"\nports = [\"80:8080\"]", `host port tcp/80 of container web is used by container broker already`, "web"},
		{"bad port", `"80:80/tcp"`, `"80:80/tpc"`, `coble.toml:14:1: port "80:80/tpc": unknown protocol "tpc"`, "web"},
		{"bad device", "pids      = 64", "devices = [\"ttyS0\"]", `coble.toml:17:1: device "ttyS0": want`, "web"},
		{"bad access", "pids      = 64", "devices = [\"/dev/a:/dev/b:rx\"]", `unknown access "rx"`, "web"},
		{"bad ulimit", "pids      = 64", "ulimits = { nofil = \"1\" }", `coble.toml:17:1: ulimit nofil: invalid ulimit type`, "web"},
		{"bad restart", `"always"`, `"allways"`, `coble.toml:19:1: restart "allways" is not known`, "web"},
		{"bad mount", `:ro"`, `:rx"`, `unknown option "rx"`, "web"},
		{"bad subnet", `10.88.0.0/24`, `10.88.0/24`, `coble.toml:4:1: subnet "10.88.0/24" is no IPv4 prefix`, ""},
		{"bad listen", `hostname = "gateway"`, `listen = ["lan", "br lan"]`, `coble.toml:1:1: listen "br lan" is neither an address nor a link`, ""},
		{"bad listen of one", "pids      = 64", `listen = ""`, `coble.toml:17:1: listen "" is neither`, "web"},
		{"listen of a wrong type", "pids      = 64", `listen = [5]`, `coble.toml:17:`, "web"},
		{"two containers with one name", `[container.broker]`, `[container.web]`, `coble.toml:22:`, "web"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			text := strings.Replace(good, r.from, r.to, 1)
			require.NotEqual(t, good, text)
			c, problems := Parse("coble.toml", []byte(text))
			require.NotEmpty(t, problems)
			var all []string
			for _, p := range problems {
				all = append(all, p.Error())
			}
			require.Contains(t, strings.Join(all, "\n"), r.want)
			for _, name := range []string{"web", "broker"} {
				_, there := c.Container[name]
				if r.name == "two containers with one name" {
					continue
				}
				require.Equal(t, name != r.lost, there, "%s: %v", name, all)
			}
		})
	}
}

// A port of one address is another than that of the next.
func TestPortsOfAddresses(t *testing.T) {
	two := strings.Replace(good, `"80:80/tcp"`, `"127.0.0.1:80:80", "0:7", "0:8"`, 1)
	_, problems := Parse("x", []byte(strings.Replace(two, `image = "broker"`, "image = \"broker\"\nports = [\"127.0.0.2:80:80\", \"80:80/udp\"]", 1)))
	require.Empty(t, problems)
	_, problems = Parse("x", []byte(strings.Replace(two, `image = "broker"`, "image = \"broker\"\nports = [\"80:80\"]", 1)))
	require.Len(t, problems, 1)
}

func TestListen(t *testing.T) {
	c, problems := Parse("x", []byte("listen = \"lan\"\n[container.aa]\nimage = \"a\"\nlisten = [\"br-lan\", \"10.0.0.1\", \"::\"]\n"))
	require.Empty(t, problems)
	require.Equal(t, Listen{"lan"}, c.Listen)
	require.Equal(t, Listen{"br-lan", "10.0.0.1", "::"}, c.Container["aa"].Listen)
}

// A machine with one link has nothing but that; one with more keeps its ports off those that lead to the world.
func TestUplinks(t *testing.T) {
	for text, want := range map[string][]string{
		"[uplink.eth0]\ndhcp = true\n":                                                                                                             nil,
		"[uplink.eth0]\ndhcp = true\n[uplink.eth1]\naddress = \"10.0.0.1/24\"\n":                                                                   {"eth0"},
		"[uplink.br0]\nkind = \"bridge\"\nports = [\"eth0\"]\ndhcp = true\n[link.eth0]\nmtu = 1400\n":                                              nil,
		"[uplink.eth0]\naccept_ra = true\n[link.eth1]\naddress = \"10.0.0.1/24\"\n":                                                                {"eth0"},
		"[uplink.eth0]\ndhcp6 = true\n[link.eth1]\naddress = \"10.0.0.1/24\"\n":                                                                    {"eth0"},
		"[uplink.eth0]\naddress = \"10.1.0.2/24\"\ngateway = \"10.1.0.1\"\n[uplink.eth1]\naddress = \"10.0.0.1/24\"\n[uplink.ppp0]\ndhcp = true\n": {"eth0", "ppp0"},
	} {
		c, problems := Parse("x", []byte(text))
		require.Empty(t, problems)
		require.Equal(t, want, c.Uplinks(), text)
	}
}

func TestSamples(t *testing.T) {
	files, err := os.ReadDir("testdata")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		_, problems, err := Load("testdata/" + f.Name())
		require.NoError(t, err)
		require.Empty(t, problems, f.Name())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("[container.a\nimage=1\n[container.b]\nimage='x'"))
	f.Add([]byte("a.b.c = 1\n[[container]]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _ := Parse("x", b)
		if got := len(c.Order()); got != len(c.Container) {
			t.Fatalf("order has %d of %d", got, len(c.Container))
		}
	})
}

func TestAge(t *testing.T) {
	for text, want := range map[string]string{"30d": "30d", "12h": "12h0m0s", "24h": "1d", "90m": "1h30m0s"} {
		c, problems := Parse("f", []byte("[storage]\nimages_unused = \""+text+"\"\nimages_max = \"512MiB\"\n"))
		require.Empty(t, problems)
		require.Equal(t, want, c.Storage.ImagesUnused.String())
		require.EqualValues(t, 512<<20, c.Storage.ImagesMax)
	}
	for _, text := range []string{"", "d", "0d", "-1d", "1.5d", "30", "0h", "-2h", "999999d", "x"} {
		c, problems := Parse("f", []byte("[storage]\nimages_unused = \""+text+"\"\n"))
		require.Len(t, problems, 1, text)
		require.Contains(t, problems[0].Text, "is not a length of time")
		require.Zero(t, c.Storage.ImagesUnused)
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{"0": 0, "8kbit": 8000, "512Kbit": 512e3, "1.5mbit": 15e5, "10gbit": 1e10, "9600bit": 9600} {
		r, err := ParseRate(text)
		require.NoError(t, err, text)
		require.Equal(t, want, r, text)
	}
	for _, text := range []string{"", "10", "10m", "mbit", "-1mbit", "1 mbit x", "10kibit", "10MB", "nanbit", "infbit", "1e99gbit", "10mbit/s", "é", "İİİ", "1\u212abit"} {
		_, err := ParseRate(text)
		require.Error(t, err, text)
	}
}
