package image

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform is what images are chosen for, in Go's words: linux, arm, v7.
type Platform struct{ OS, Architecture, Variant string }

// Here is the platform of a machine: goarch is what this program was built
// for, machine what uname(2) says of the kernel. A 32-bit ARM program tells
// by the latter which instructions there are.
func Here(goarch, machine string) Platform {
	p := Platform{OS: "linux", Architecture: goarch}
	switch {
	case goarch == "arm64":
		p.Variant = "v8"
	case goarch != "arm":
	case strings.HasPrefix(machine, "aarch64"), strings.HasPrefix(machine, "armv8"):
		p.Variant = "v8"
	case strings.HasPrefix(machine, "armv5"), strings.HasPrefix(machine, "armv6"):
		p.Variant = machine[3:5]
	default:
		p.Variant = "v7"
	}
	return p
}

// Choose picks the descriptor that fits p best: the same variant, else the
// nearest lower one, else what the machine runs beside its own: 32-bit ARM on
// arm64, 386 on amd64. Attestations and other things that are no images are
// passed over. ok is false when none fits.
func Choose(list []ocispec.Descriptor, p Platform) (best ocispec.Descriptor, ok bool) {
	top := 0
	for _, d := range list {
		if !IsManifest(d) && !IsIndex(d) {
			continue
		}
		if s := fit(d.Platform, p); s > top {
			best, top = d, s
		}
	}
	return best, top > 0
}

// fit scores a platform against what is wanted; 0 means that it can't run.
func fit(have *ocispec.Platform, want Platform) int {
	if have == nil || (have.OS == "" && have.Architecture == "") {
		return 1
	}
	if have.OS != want.OS {
		return 0
	}
	hv, wv := variant(have.Architecture, have.Variant), variant(want.Architecture, want.Variant)
	switch {
	case have.Architecture == want.Architecture && hv <= wv:
		return 100 + hv
	case want.Architecture == "arm64" && have.Architecture == "arm" && hv <= 8:
		return 10 + hv
	case want.Architecture == "amd64" && have.Architecture == "386":
		return 10
	}
	return 0
}

// Is tells whether an image is one for p, of its variant or a lower one.
func (p Platform) Is(img Image) bool {
	return fit(&ocispec.Platform{OS: img.OS, Architecture: img.Architecture, Variant: img.Variant}, p) >= 100
}

// String is linux/arm/v7, without what is not known.
func (p Platform) String() string {
	return strings.TrimRight(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// variant turns v7 into 7, with the architecture's usual one for none.
func variant(arch, v string) int {
	v = strings.TrimPrefix(v, "v")
	switch {
	case len(v) == 1 && v[0] >= '0' && v[0] <= '9':
		return int(v[0] - '0')
	case arch == "arm64":
		return 8
	case arch == "arm":
		return 7
	}
	return 1
}

// ParsePlatform reads os[/architecture[/variant]], or an architecture alone.
// What is not said is taken from here. Names that other tools use for an
// architecture are understood. Errors wrap ErrInvalid.
func ParsePlatform(s string, here Platform) (Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	for _, p := range parts {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != "" {
			return here, fmt.Errorf("%w: platform %q: want os/architecture[/variant], such as linux/arm/v7", ErrInvalid, s)
		}
	}
	switch {
	case len(parts) > 3:
		return here, fmt.Errorf("%w: platform %q has more than three parts", ErrInvalid, s)
	case len(parts) == 1 && parts[0] == "linux":
		return here, nil
	case len(parts) == 1:
		parts = []string{"linux", parts[0]}
	}
	p := Platform{OS: parts[0]}
	p.Architecture, p.Variant = usualArch(parts[1])
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	if p.Variant == "" && p.Architecture == here.Architecture {
		p.Variant = here.Variant
	}
	return p, nil
}

// usualArch gives an architecture its name in images.
func usualArch(s string) (arch, variant string) {
	switch s {
	case "x86_64", "x86-64":
		return "amd64", ""
	case "aarch64":
		return "arm64", ""
	case "armhf":
		return "arm", "v7"
	case "armel":
		return "arm", "v6"
	case "i386", "i686":
		return "386", ""
	}
	return s, ""
}
