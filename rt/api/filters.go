package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// filters are the API's ?filters= in either of its two shapes: {"k":["v"]} and {"k":{"v":true}}.
type filters map[string][]string

func readFilters(r *http.Request, known ...string) (filters, error) {
	v := r.FormValue("filters")
	if v == "" {
		return filters{}, nil
	}
	f := filters{}
	var old map[string]map[string]bool
	if err := json.Unmarshal([]byte(v), &old); err == nil {
		for k, set := range old {
			for val := range set {
				f[k] = append(f[k], val)
			}
		}
	} else if err := json.Unmarshal([]byte(v), &f); err != nil {
		return nil, invalid("invalid filter: %v", err)
	}
	for k := range f {
		if len(known) > 0 && !slices.Contains(known, k) {
			return nil, invalid("invalid filter '%s'", k)
		}
	}
	return f, nil
}

// any says whether the filter is not set or has the value.
func (f filters) any(key, value string) bool {
	return len(f[key]) == 0 || slices.Contains(f[key], value)
}

// labels says whether every wanted label is there: k, k=v or, for keys with !, is not.
func (f filters) labels(key string, have map[string]string) bool {
	for _, want := range f[key] {
		k, v, valued := strings.Cut(want, "=")
		got, ok := have[k]
		if !ok || valued && got != v {
			return false
		}
	}
	return true
}

// wantLabels says whether every label of the filter label is there, and those of label! are not.
func (f filters) wantLabels(have map[string]string) bool {
	return f.labels("label", have) && (len(f["label!"]) == 0 || !f.labels("label!", have))
}

// match says whether the filter is not set, or one of its values matches s as a regular expression, as Docker does.
func (f filters) match(key, s string) bool {
	if len(f[key]) == 0 {
		return true
	}
	for _, v := range f[key] {
		if v == s {
			return true
		}
		if re, err := regexp.Compile(v); err == nil && re.MatchString(s) {
			return true
		}
	}
	return false
}
