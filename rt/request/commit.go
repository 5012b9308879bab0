package request

import (
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/rt/store"
)

// Commit is what is asked of an image that is made from a container.
type Commit struct {
	Author, Comment string
	Changes         []string          // instructions, see Apply
	Config          *container.Config // in place of the container's own, where it says something; may be nil
}

// Committed is the image that a container becomes, without its layers: base is the image that it was made from.
func Committed(base image.Image, spec store.Spec, c Commit, now time.Time) (image.Image, error) {
	img := image.Image{
		Created: now, Author: c.Author, Architecture: base.Architecture, OS: base.OS, Variant: base.Variant, Config: imageConfig(spec.Config),
		History: append(slices.Clone(base.History), image.History{
			Created: &now, Author: c.Author, Comment: c.Comment, CreatedBy: strings.Join(spec.Config.Cmd, " "),
		}),
	}
	if c.Config != nil {
		img.Config = imageConfig(mergeConfig(*c.Config, image.Image{Config: img.Config}))
	}
	return img, Apply(&img.Config, c.Changes)
}

// Imported is the image that a root file system becomes, without its layer.
func Imported(comment string, changes []string, p image.Platform, now time.Time) (image.Image, error) {
	img := image.Image{
		Created: now, OS: "linux", Architecture: p.Architecture, Variant: p.Variant,
		History: []image.History{{Created: &now, Comment: comment}},
	}
	return img, Apply(&img.Config, changes)
}

// Encoder makes an image's configuration once its layers are known.
func Encoder(img image.Image) func([]digest.Digest) ([]byte, error) {
	return func(diffs []digest.Digest) ([]byte, error) {
		img.RootFS = diffs
		return image.Encode(img)
	}
}

// imageConfig is what of a container's configuration an image may say.
func imageConfig(c container.Config) image.Config {
	out := image.Config{
		User: c.User, Env: slices.Clone(c.Env), Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, Labels: c.Labels,
		StopSignal: c.StopSignal, OnBuild: c.OnBuild, Shell: c.Shell, StopTimeout: c.StopTimeout, Volumes: c.Volumes,
	}
	for p := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[p.String()] = struct{}{}
	}
	if h := c.Healthcheck; h != nil {
		out.Healthcheck = &image.Healthcheck{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	return out
}
