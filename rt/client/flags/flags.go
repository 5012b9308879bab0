// Package flags declares flags that verbs share (those of run, create, update and of networks), and reads them into the
// API's requests. It is pure but for the files and variables that a flag names, and asks the engine nothing.
package flags

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// KeyValues adds name=value texts to a map; a text without = is a name with an empty value.
func KeyValues(list []string, into map[string]string) {
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		into[k] = v
	}
}

// Filters turns key=value texts into the API's filters.
func Filters(texts []string) (url.Values, error) {
	if len(texts) == 0 {
		return url.Values{}, nil
	}
	f := map[string][]string{}
	for _, t := range texts {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("filter %q: want name=value", t)
		}
		f[k] = append(f[k], v)
	}
	b, err := json.Marshal(f)
	return url.Values{"filters": {string(b)}}, err
}
