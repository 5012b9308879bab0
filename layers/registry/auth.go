package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// authorizer answers a registry's challenge for one session.
type authorizer struct {
	creds    Credentials
	http     *http.Client
	agent    string
	insecure bool // the token server may be one without TLS too

	mu     sync.Mutex
	ways   []challenge      // guarded by mu
	tokens map[string]token // by scope; guarded by mu
}

type token struct {
	text string
	ends time.Time
}

// offer notes the ways in that an answer names; tokens that were good for
// nothing are forgotten.
func (a *authorizer) offer(headers []string) {
	ways := parseChallenges(headers)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens = nil
	if len(ways) > 0 {
		a.ways = ways
	}
}

// authorize adds what the registry wants to see to a request.
func (a *authorizer) authorize(ctx context.Context, req *http.Request, scope string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.creds.RegistryToken != "" {
		req.Header.Set("Authorization", "Bearer "+a.creds.RegistryToken)
		return nil
	}
	if len(a.ways) == 0 {
		return nil
	}
	for _, w := range a.ways {
		switch w.scheme {
		case "bearer":
			t, err := a.token(ctx, w, scope)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+t)
			return nil
		case "basic":
			if a.creds.Username == "" {
				return ErrNoCredentials
			}
			req.SetBasicAuth(a.creds.Username, a.creds.Password)
			return nil
		}
	}
	return fmt.Errorf("%w: the registry wants authentication by %s", ErrUnsupported, a.ways[0].scheme)
}

const (
	maxToken  = 1 << 20 // bytes of a token server's answer
	clockSkew = 10 * time.Second
	shortest  = time.Minute // what a token lasts at least, where nothing is said (token specification)
)

// token fetches one, or takes the one that is there. mu is held: requests
// that want the same token wait for it instead of asking as well.
func (a *authorizer) token(ctx context.Context, w challenge, scope string) (string, error) {
	if t, ok := a.tokens[scope]; ok && time.Until(t.ends) > clockSkew {
		return t.text, nil
	}
	realm, err := url.Parse(w.params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return "", fmt.Errorf("%w: token server %q is no URL", ErrInvalid, w.params["realm"])
	}
	if realm.Scheme == "http" && !a.insecure {
		return "", fmt.Errorf("%w: token server %s has no TLS", ErrInvalid, realm.Host)
	}
	req, err := a.tokenRequest(ctx, realm, w.params["service"], scope)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", a.agent)
	resp, err := a.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("fetch token: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetch token: %w", readError(resp))
	}
	defer resp.Body.Close()
	t, err := readToken(resp.Body)
	if err != nil {
		return "", fmt.Errorf("fetch token from %s: %w", realm.Host, err)
	}
	if a.tokens == nil {
		a.tokens = map[string]token{}
	}
	a.tokens[scope] = t
	return t.text, nil
}

// tokenRequest asks by GET with the user's password, or by POST with the
// identity token (token specification and its OAuth 2 form).
func (a *authorizer) tokenRequest(ctx context.Context, realm *url.URL, service, scope string) (*http.Request, error) {
	scopes := strings.Fields(scope)
	if a.creds.IdentityToken != "" {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.creds.IdentityToken}, "service": {service}, "client_id": {"coble"}, "scope": {scope}}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return req, err
	}
	q := realm.Query()
	if service != "" {
		q.Set("service", service)
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	if a.creds.Username != "" {
		q.Set("account", a.creds.Username)
	}
	u := *realm
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err == nil && a.creds.Username != "" {
		req.SetBasicAuth(a.creds.Username, a.creds.Password)
	}
	return req, err
}

func readToken(r io.Reader) (token, error) {
	var body struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"` // seconds
	}
	if err := json.NewDecoder(io.LimitReader(r, maxToken)).Decode(&body); err != nil {
		return token{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if body.Token == "" {
		body.Token = body.AccessToken
	}
	if body.Token == "" || strings.ContainsAny(body.Token, "\r\n") {
		return token{}, fmt.Errorf("%w: it has no token", ErrInvalid)
	}
	lasts := max(shortest, time.Duration(min(body.ExpiresIn, 1<<20))*time.Second)
	return token{text: body.Token, ends: time.Now().Add(lasts)}, nil
}

// Login checks credentials at a registry. Wrong ones are ErrUnauthorized.
func (c *Client) Login(ctx context.Context, host string, creds Credentials) error {
	s, err := c.Open(ctx, Repository{Host: host}, creds, true)
	if err != nil {
		return err
	}
	resp, err := s.do(ctx, call{method: http.MethodGet, url: s.at.url("/v2/"), scope: " ", want: []int{http.StatusOK}})
	if err != nil {
		return fmt.Errorf("login attempt to %s failed: %w", s.at.url("/v2/"), err)
	}
	drop(resp)
	return nil
}
