// Package image holds the values that images are made of: configurations,
// manifests, digests, chain identities and names. It is pure: it opens no
// file, talks to no network and keeps no state. Everything it parses comes
// from strangers, so every parser has a limit and says what is wrong.
package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Limits on what strangers may hand in.
const (
	MaxJSON   = 4 << 20 // bytes of a manifest, index or configuration
	MaxLayers = 127     // layers of an image; overlay mounts were tried with these
	MaxTags   = 1024    // names that one archive gives to one image
)

// ErrInvalid is wrapped by every error about the contents of a manifest,
// index, configuration or name.
var ErrInvalid = errors.New("invalid image")

// ErrPlatform means that an index has no image for the platform.
var ErrPlatform = errors.New("no matching manifest")

// Errors of whoever keeps images.
var (
	ErrNotFound = errors.New("no such image")
	ErrDamaged  = errors.New("image is damaged")
)

// Image is one image of the repository. It is a plain value: changing it
// changes nothing else.
type Image struct {
	ID           digest.Digest // sha256 of RawConfig
	RepoTags     []string      // familiar names, sorted: busybox:latest
	RepoDigests  []string      // familiar names with a manifest digest, sorted
	Created      time.Time     // zero where the configuration says nothing
	Author       string
	Architecture string
	OS           string
	Variant      string
	Size         int64   // bytes of all its layers' files, unpacked
	LayerSizes   []int64 // of each layer, lowest first; as many as RootFS
	Config       Config
	History      []History
	RootFS       []digest.Digest // diff ids, lowest first
	RawConfig    []byte          // exactly as it came
	Damage       string          // what is wrong with its layers on disk; empty if nothing is known
}

// Config is what an image says about how to run it (OCI image
// specification, config.md, with Docker's additions).
type Config struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	Healthcheck  *Healthcheck        `json:"Healthcheck,omitempty"`
	OnBuild      []string            `json:"OnBuild,omitempty"`
	Shell        []string            `json:"Shell,omitempty"`
	StopTimeout  *int                `json:"StopTimeout,omitempty"` // seconds
	ArgsEscaped  bool                `json:"ArgsEscaped,omitempty"`
}

// Healthcheck is Docker's addition to the configuration. Times are
// nanoseconds in JSON; zero means inherit.
type Healthcheck struct {
	Test          []string      `json:"Test,omitempty"`
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`
	StartInterval time.Duration `json:"StartInterval,omitempty"`
	Retries       int           `json:"Retries,omitempty"`
}

// History is one step of how an image was made.
type History struct {
	Created    *time.Time `json:"created,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	Author     string     `json:"author,omitempty"`
	Comment    string     `json:"comment,omitempty"`
	EmptyLayer bool       `json:"empty_layer,omitempty"`
}

// wireConfig is the configuration file as it is stored and sent.
type wireConfig struct {
	Created      *time.Time `json:"created"`
	Author       string     `json:"author"`
	Architecture string     `json:"architecture"`
	OS           string     `json:"os"`
	Variant      string     `json:"variant"`
	Config       *Config    `json:"config"`
	History      []History  `json:"history"`
	RootFS       *struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// ParseConfig makes an Image of a configuration file. Names and size are the
// caller's to fill in. Errors wrap ErrInvalid.
func ParseConfig(raw []byte) (Image, error) {
	if err := checkJSON("configuration", raw); err != nil {
		return Image{}, err
	}
	var w wireConfig
	if err := json.Unmarshal(raw, &w); err != nil {
		return Image{}, fmt.Errorf("%w: parse configuration: %w", ErrInvalid, err)
	}
	if w.RootFS == nil || w.RootFS.Type != "layers" {
		return Image{}, fmt.Errorf("%w: configuration has no rootfs of type layers", ErrInvalid)
	}
	if err := checkDiffIDs(w.RootFS.DiffIDs); err != nil {
		return Image{}, err
	}
	img := Image{
		ID: digest.FromBytes(raw), Author: w.Author,
		Architecture: w.Architecture, OS: w.OS, Variant: w.Variant,
		History: w.History, RootFS: w.RootFS.DiffIDs, RawConfig: raw,
	}
	if w.Created != nil {
		img.Created = *w.Created
	}
	if w.Config != nil {
		img.Config = *w.Config
	}
	return img, checkConfig(img)
}

func checkJSON(what string, raw []byte) error {
	if len(raw) > MaxJSON {
		return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrInvalid, what, len(raw), MaxJSON)
	}
	if t := bytes.TrimLeft(raw, " \t\r\n"); len(t) == 0 || (t[0] != '{' && t[0] != '[') {
		return fmt.Errorf("%w: %s is not a JSON object", ErrInvalid, what)
	}
	return nil
}

func checkDiffIDs(ids []digest.Digest) error {
	if len(ids) > MaxLayers {
		return fmt.Errorf("%w: %d layers, at most %d are allowed", ErrInvalid, len(ids), MaxLayers)
	}
	for i, d := range ids {
		if err := CheckDigest(d); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return nil
}

// checkConfig refuses what no kernel could run and what would confuse
// whoever reads it later.
func checkConfig(img Image) error {
	if img.OS != "" && img.OS != "linux" {
		return fmt.Errorf("%w: made for operating system %q, not linux", ErrInvalid, img.OS)
	}
	lists := [][]string{
		img.Config.Env, img.Config.Entrypoint, img.Config.Cmd,
		{img.Config.User, img.Config.WorkingDir},
	}
	for _, l := range lists {
		for _, s := range l {
			if strings.IndexByte(s, 0) >= 0 {
				return fmt.Errorf("%w: configuration has a zero byte in %q", ErrInvalid, s)
			}
		}
	}
	return nil
}

// CheckDigest accepts sha256 digests only: the one algorithm that every
// tool writes, and the only one that is checked here.
func CheckDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: digest %q: %w", ErrInvalid, string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: digest %q is not sha256", ErrInvalid, string(d))
	}
	return nil
}

// ChainIDs gives the identity of each prefix of a stack of layers, lowest
// first (OCI image specification, config.md, "Layer ChainID").
func ChainIDs(diffs []digest.Digest) []digest.Digest {
	chains := make([]digest.Digest, 0, len(diffs))
	for i, d := range diffs {
		if i > 0 {
			d = digest.FromString(chains[i-1].String() + " " + d.String())
		}
		chains = append(chains, d)
	}
	return chains
}

// ID is the identity of an image: the sha256 of its configuration.
type ID = digest.Digest
