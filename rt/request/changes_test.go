package request

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/image"
)

func TestApply(t *testing.T) {
	base := func() image.Config {
		return image.Config{Env: []string{"A=1", "HOME=/h"}, Cmd: []string{"old"}, WorkingDir: "/w", Labels: map[string]string{"l": "1"}}
	}
	for _, c := range []struct {
		changes []string
		want    func(*image.Config)
	}{
		{[]string{`CMD ["a","b c"]`}, func(c *image.Config) { c.Cmd = []string{"a", "b c"} }},
		{[]string{"cmd echo $A"}, func(c *image.Config) { c.Cmd = []string{"/bin/sh", "-c", "echo $A"} }},
		{[]string{`ENTRYPOINT ["e"]`}, func(c *image.Config) { c.Entrypoint, c.Cmd = []string{"e"}, nil }},
		{[]string{`CMD ["c"]`, `ENTRYPOINT ["e"]`}, func(c *image.Config) { c.Entrypoint, c.Cmd = []string{"e"}, []string{"c"} }},
		{[]string{"ENV B=2 C='$A x' D=\"$A x\" A=${A}0"}, func(c *image.Config) { c.Env = []string{"A=10", "HOME=/h", "B=2", "C=$A x", "D=1 x"} }},
		{[]string{"ENV B two words $A"}, func(c *image.Config) { c.Env = append(c.Env, "B=two words 1") }},
		{[]string{"ENV B=${NO:-x}${A:+y}${NO} \\\n C=a\\ b"}, func(c *image.Config) { c.Env = append(c.Env, "B=xy", "C=a b") }},
		{[]string{`LABEL a=b "c d"="e f"`}, func(c *image.Config) { c.Labels = map[string]string{"l": "1", "a": "b", "c d": "e f"} }},
		{[]string{"EXPOSE 80 53/udp 100-101"}, func(c *image.Config) {
			c.ExposedPorts = map[string]struct{}{"80/tcp": {}, "53/udp": {}, "100/tcp": {}, "101/tcp": {}}
		}},
		{[]string{`VOLUME ["/a b"]`, "VOLUME /c $HOME/d"}, func(c *image.Config) {
			c.Volumes = map[string]struct{}{"/a b": {}, "/c": {}, "/h/d": {}}
		}},
		{[]string{"USER 5:6", "WORKDIR sub/../x", "STOPSIGNAL SIGINT"}, func(c *image.Config) { c.User, c.WorkingDir, c.StopSignal = "5:6", "/w/x", "SIGINT" }},
		{[]string{"ONBUILD RUN x"}, func(c *image.Config) { c.OnBuild = []string{"RUN x"} }},
		{[]string{"HEALTHCHECK --interval=5s --retries=3 CMD test -e /x"}, func(c *image.Config) {
			c.Healthcheck = &image.Healthcheck{Test: []string{"CMD-SHELL", "test -e /x"}, Interval: 5 * time.Second, Retries: 3}
		}},
		{[]string{"HEALTHCHECK NONE\n# comment\n\nUSER x"}, func(c *image.Config) { c.Healthcheck, c.User = &image.Healthcheck{Test: []string{"NONE"}}, "x" }},
	} {
		got, want := base(), base()
		c.want(&want)
		require.NoError(t, Apply(&got, c.changes), c.changes)
		require.Equal(t, want, got, c.changes)
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, bad := range []string{
		"RUN x", "FROM a", "ADD a b", "CMD", "ENV", "ENV A", "ENV =x", `ENV A="x`, "ENV A='x", "ENV A=${x", "ENV A=${x?y}", "ENV A=1 B", "EXPOSE x", "EXPOSE 99999",
		"LABEL", "ONBUILD FROM x", "STOPSIGNAL NONE", "HEALTHCHECK", "HEALTHCHECK CMD", "HEALTHCHECK NONE x", "HEALTHCHECK --retries=-1 CMD x",
		"HEALTHCHECK --interval=1 CMD x", "HEALTHCHECK --what=1s CMD x", "HEALTHCHECK x", `VOLUME [""]`, "nonsense",
	} {
		require.Error(t, Apply(&image.Config{}, []string{bad}), bad)
	}
}

func FuzzApply(f *testing.F) {
	f.Add(`ENV A="b c" D=$A`)
	f.Add("HEALTHCHECK --retries=3 CMD x")
	f.Add("EXPOSE 1-65535/udp")
	f.Fuzz(func(t *testing.T, s string) { _ = Apply(&image.Config{}, []string{s}) })
}
