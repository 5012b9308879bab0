package images

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/source"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
)

// PullIn asks for an image, or for all of a repository's.
type PullIn struct {
	Ref      string // name[:tag|@digest]
	All      bool   // every tag; Ref has none
	Platform string // os/architecture[/variant]; empty: this machine's
	Creds    registry.Credentials
	Tell     func(distribution.Event) // may be nil
}

func (im *Store) pull(j *job.Job, in PullIn) (any, error) {
	n, err := image.ParseName(in.Ref)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	o := distribution.PullOptions{Name: n, Platform: source.Here(), Asked: in.Platform != "", Tell: in.Tell}
	if o.Tell == nil {
		o.Tell = func(distribution.Event) {}
	}
	if o.Asked {
		if o.Platform, err = image.ParsePlatform(in.Platform, o.Platform); err != nil {
			return nil, fault.As(fault.Invalid, err)
		}
	}
	s, err := im.registry.Open(j.Context(), registry.Split(n.Repo), in.Creds, false)
	if err != nil {
		return nil, registryError(err, "pull", n)
	}
	if !in.All {
		return nil, im.pullOne(j, s, o)
	}
	tags, err := s.Tags(j.Context())
	if err != nil {
		return nil, registryError(err, "pull", n)
	}
	if len(tags) == 0 {
		return nil, fault.New(fault.NotFound, "pull all of %s: the repository has no tags", n.Repo)
	}
	slices.Sort(tags)
	for _, t := range tags {
		o.Name.Tag = t
		if err := im.pullOne(j, s, o); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (im *Store) pullOne(j *job.Job, s *registry.Session, o distribution.PullOptions) error {
	done, err := im.Distribution().Pull(j.Context(), s, o)
	if err != nil {
		return registryError(err, "pull", o.Name)
	}
	im.Used(done.ID.String())
	im.CollectSoon()
	status := "Image is up to date for "
	if done.Changed {
		status = "Downloaded newer image for "
	}
	o.Tell(distribution.Event{Status: "Digest: " + done.Digest.String()})
	o.Tell(distribution.Event{Status: "Status: " + status + o.Name.Familiar()})
	im.imageEvent(events.ActionPull, o.Name.Familiar(), o.Name.Familiar())
	return nil
}

// CheckPlatform refuses an image that is for another platform than was asked for; clients then pull.
func CheckPlatform(img image.Image, in request.Create) error {
	if in.Platform == "" {
		return nil
	}
	want, err := image.ParsePlatform(in.Platform, source.Here())
	if err != nil {
		return fault.As(fault.Invalid, err)
	}
	have := &ocispec.Platform{OS: img.OS, Architecture: img.Architecture, Variant: img.Variant}
	if _, ok := image.Choose([]ocispec.Descriptor{{Platform: have}}, want); !ok {
		return fault.New(fault.NotFound, "image with reference %s was found but its platform (%s/%s) does not match the specified platform (%s)", in.Config.Image, have.OS, have.Architecture, in.Platform)
	}
	return nil
}

// registryError says what a registry's error means for a name, in Docker's words.
func registryError(err error, verb string, n image.Name) error {
	name := n.Familiar()
	switch {
	case errors.Is(err, image.ErrNotFound):
		return Error(err)
	case errors.Is(err, registry.ErrNotFound) && verb == "pull":
		return fault.New(fault.NotFound, "manifest for %s not found: %w", name, err)
	case errors.Is(err, registry.ErrNoCredentials):
		return fault.As(fault.Internal, err)
	case errors.Is(err, registry.ErrUnauthorized) && verb == "pull":
		return fault.New(fault.NotFound, "pull access denied for %s, repository does not exist or may require 'login': %w", name, err)
	case errors.Is(err, registry.ErrUnauthorized):
		return fault.New(fault.Unauthorized, "%s of %s refused: %w", verb, name, err)
	case errors.Is(err, image.ErrPlatform):
		return fault.New(fault.NotFound, "%s %s: %w", verb, name, err)
	case errors.Is(err, image.ErrInvalid), errors.Is(err, registry.ErrUnsupported):
		return fault.New(fault.Invalid, "%s %s: %w", verb, name, err)
	}
	return fmt.Errorf("%s %s: %w", verb, name, err)
}

// PushIn asks for images to be sent.
type PushIn struct {
	Repo  string // without a tag
	Tag   string // empty: every tag that is here
	Creds registry.Credentials
	Tell  func(distribution.Event) // may be nil
	Sent  func(PushOut)            // hears of each image; may be nil
}

// PushOut is one image that was sent.
type PushOut struct {
	Tag    string
	Digest string
	Size   int // of the manifest, in bytes
}

func (im *Store) push(j *job.Job, in PushIn) (any, error) {
	n, err := image.ParseName(in.Repo)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	tags, err := im.tagsToPush(n, in.Tag)
	if err != nil {
		return nil, err
	}
	tell := in.Tell
	if tell == nil {
		tell = func(distribution.Event) {}
	}
	at := registry.Split(n.Repo)
	tell(distribution.Event{Status: "The push refers to repository [" + n.Repo + "]"})
	s, err := im.registry.Open(j.Context(), at, in.Creds, true)
	if err != nil {
		return nil, registryError(err, "push", n)
	}
	for _, t := range tags {
		n.Tag = t
		done, err := im.Distribution().Push(j.Context(), s, n, tell)
		if err != nil {
			return nil, registryError(err, "push", n)
		}
		tell(distribution.Event{Status: fmt.Sprintf("%s: digest: %s size: %d", t, done.Digest, done.Size)})
		if in.Sent != nil {
			in.Sent(PushOut{Tag: t, Digest: done.Digest.String(), Size: done.Size})
		}
		im.imageEvent(events.ActionPush, n.Familiar(), n.Familiar())
	}
	return nil, nil
}

// tagsToPush looks before the registry is asked for anything.
func (im *Store) tagsToPush(n image.Name, tag string) ([]string, error) {
	if tag != "" {
		n.Tag, n.Digest = tag, ""
		if _, err := im.Get(n.String()); err != nil {
			return nil, fault.New(fault.NotFound, "An image does not exist locally with the tag: %s", n.Familiar())
		}
		return []string{tag}, nil
	}
	images, err := im.List()
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, img := range images {
		for _, t := range img.RepoTags {
			if m, err := image.ParseName(t); err == nil && m.Repo == n.Repo {
				tags = append(tags, m.Tag)
			}
		}
	}
	if len(tags) == 0 {
		return nil, fault.New(fault.NotFound, "An image does not exist locally with the tag: %s", strings.TrimSuffix(n.Familiar(), ":"+n.Tag))
	}
	slices.Sort(tags)
	return tags, nil
}

// SearchIn asks an index.
type SearchIn struct {
	Term     string
	Limit    int // 1 to 100
	Stars    int // at least so many
	Official *bool
	Creds    registry.Credentials
}

func (im *Store) search(j *job.Job, in SearchIn) ([]registry.Found, error) {
	if in.Limit == 0 {
		in.Limit = 25
	}
	if in.Term == "" || in.Limit < 1 || in.Limit > 100 {
		return nil, fault.New(fault.Invalid, "search for %q with limit %d: want a term, and a limit from 1 to 100", in.Term, in.Limit)
	}
	found, err := im.registry.Search(j.Context(), in.Term, in.Limit, in.Creds)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(f registry.Found) bool {
		return f.Stars < in.Stars || in.Official != nil && f.Official != *in.Official
	}), nil
}

// AuthIn asks whether a registry knows someone.
type AuthIn struct {
	Server string // host, or a URL as Docker writes it
	Creds  registry.Credentials
}

func (im *Store) auth(j *job.Job, in AuthIn) (any, error) {
	err := im.registry.Login(j.Context(), registry.ServerHost(in.Server), in.Creds)
	if errors.Is(err, registry.ErrUnauthorized) {
		return nil, fault.As(fault.Unauthorized, err)
	}
	return nil, err
}

// DistributionIn asks about an image in its registry.
type DistributionIn struct {
	Ref   string
	Creds registry.Credentials
}

// DistributionOut is what the registry has under the name.
type DistributionOut struct {
	Descriptor ocispec.Descriptor
	Platforms  []ocispec.Platform
}

func (im *Store) distribution(j *job.Job, in DistributionIn) (DistributionOut, error) {
	n, err := image.ParseName(in.Ref)
	if err != nil {
		return DistributionOut{}, fault.As(fault.Invalid, err)
	}
	s, err := im.registry.Open(j.Context(), registry.Split(n.Repo), in.Creds, false)
	if err != nil {
		return DistributionOut{}, registryError(err, "inspect", n)
	}
	d, platforms, err := s.Describe(j.Context(), n)
	if err != nil {
		return DistributionOut{}, registryError(err, "pull", n)
	}
	return DistributionOut{Descriptor: d, Platforms: platforms}, nil
}
