package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
)

func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, "foreign") || strings.Contains(mediaType, "nondistributable")
}

// maxPage is how many names come at once; the rest is behind a Link.
const maxPage = 1000

// page cuts a sorted list by ?n and ?last, and links to the rest ("Listing
// Tags").
func page(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		i := sort.SearchStrings(all, last)
		if i < len(all) && all[i] == last {
			i++
		}
		all = all[i:]
	}
	n := maxPage
	if s := q.Get("n"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 0 {
			return nil, fail(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n=%q is no number from 0 on", s)
		}
		n = min(n, v)
	}
	if len(all) <= n {
		return all, nil
	}
	if all = all[:n]; n > 0 {
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}
		w.Header().Set("Link", "<"+r.URL.Path+"?"+next.Encode()+`>; rel="next"`)
	}
	return all, nil
}

func (h *handler) tags(w http.ResponseWriter, r *http.Request, name string) error {
	list := []string{}
	err := h.o.DB.View(func(tx *bbolt.Tx) error {
		each(tx, tagsBucket, name+"\x00", func(k []string, _ []byte) bool {
			list = append(list, k[1])
			return true
		})
		return nil
	})
	if err != nil {
		return err
	}
	if h.o.Images != nil {
		more, err := h.o.Images.Tags(name)
		if err != nil {
			return err
		}
		list = append(list, more...)
	}
	if len(list) == 0 {
		if ok, err := h.known(name); err != nil || !ok {
			return orUnknown(err, name)
		}
	}
	slices.Sort(list)
	if list, err = page(w, r, slices.Compact(list)); err != nil {
		return err
	}
	return reply(w, http.StatusOK, "application/json", map[string]any{"name": name, "tags": list})
}

func orUnknown(err error, name string) error {
	if err != nil {
		return err
	}
	return fail(http.StatusNotFound, "NAME_UNKNOWN", "repository %s is not known", name)
}

// catalog lists the repositories.
func (h *handler) catalog(w http.ResponseWriter, r *http.Request) error {
	names := []string{}
	err := h.o.DB.View(func(tx *bbolt.Tx) error {
		for _, b := range []string{manifestsBucket, blobsBucket} {
			each(tx, b, "", func(k []string, _ []byte) bool {
				if len(names) == 0 || names[len(names)-1] != k[0] {
					names = append(names, k[0])
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if h.o.Images != nil {
		more, err := h.o.Images.Repositories()
		if err != nil {
			return err
		}
		names = append(names, more...)
	}
	slices.Sort(names)
	if names, err = page(w, r, slices.Compact(names)); err != nil {
		return err
	}
	return reply(w, http.StatusOK, "application/json", map[string]any{"repositories": names})
}

// referrers lists the manifests whose subject is a digest; that it is not
// known is an empty list.
func (h *handler) referrers(w http.ResponseWriter, r *http.Request, name, ref string) error {
	d, err := parseDigest(ref)
	if err != nil {
		return err
	}
	want := r.URL.Query().Get("artifactType")
	list := []ocispec.Descriptor{}
	err = h.o.DB.View(func(tx *bbolt.Tx) error {
		var bad error
		each(tx, referrersBucket, name+"\x00"+d.String()+"\x00", func(_ []string, v []byte) bool {
			var e ocispec.Descriptor
			if bad = json.Unmarshal(v, &e); bad != nil {
				return false
			}
			if want == "" || e.ArtifactType == want {
				list = append(list, e)
			}
			return true
		})
		return bad
	})
	if err != nil {
		return err
	}
	if want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return reply(w, http.StatusOK, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	})
}
