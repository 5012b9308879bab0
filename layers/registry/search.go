package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
)

// Found is one result of a search, as the index's API has it.
type Found struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// searchHost is where docker.io's index answers.
const searchHost = "index.docker.io"

// SplitTerm takes the index off a term: host.example/term.
func SplitTerm(term string) (host, rest string) {
	first, rest, ok := strings.Cut(term, "/")
	if ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return first, rest
	}
	return DefaultHost, term
}

// Search asks an index for repositories (index API, version 1). A registry
// without one is asked for its catalogue, and the names that have the term in
// them are taken. limit is at most 100.
func (c *Client) Search(ctx context.Context, term string, limit int, creds Credentials) ([]Found, error) {
	host, rest := SplitTerm(term)
	at := host
	if host == DefaultHost || host == "index.docker.io" {
		at = searchHost
	}
	var last error
	for _, e := range c.endpoints(at, true) {
		if e.host = at; e.mirror {
			continue
		}
		found, err := c.search(ctx, e, rest, limit, creds)
		if errors.Is(err, ErrNotFound) {
			return c.catalog(ctx, host, rest, limit, creds)
		}
		if err == nil {
			return found, nil
		}
		last = err
	}
	return nil, fmt.Errorf("search %s: %w", at, last)
}

func (c *Client) search(ctx context.Context, e endpoint, term string, limit int, creds Credentials) ([]Found, error) {
	q := url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url("/v1/search")+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.conf.Agent)
	if creds.Username != "" {
		req.SetBasicAuth(creds.Username, creds.Password)
	}
	resp, err := (&http.Client{Transport: c, CheckRedirect: follow(e)}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, readError(resp)
	}
	defer resp.Body.Close()
	raw, err := blob.ReadSmall(resp.Body, "", -1, image.MaxJSON)
	if err != nil {
		return nil, err
	}
	var body struct {
		Results []Found `json:"results"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return body.Results[:min(len(body.Results), limit)], nil
}

// catalog looks through the names of a registry's repositories.
func (c *Client) catalog(ctx context.Context, host, term string, limit int, creds Credentials) ([]Found, error) {
	s, err := c.Open(ctx, Repository{Host: host}, creds, false)
	if err != nil {
		return nil, err
	}
	var out []Found
	err = s.pages(ctx, s.at.url("/v2/_catalog"), "registry:catalog:*", func(raw []byte) (int, error) {
		var body struct{ Repositories []string }
		if err := json.Unmarshal(raw, &body); err != nil {
			return 0, err
		}
		for _, n := range body.Repositories {
			if strings.Contains(n, term) && len(out) < limit {
				out = append(out, Found{Name: host + "/" + n})
			}
		}
		if len(out) == limit {
			return 0, nil
		}
		return len(body.Repositories), nil
	})
	return out, err
}
