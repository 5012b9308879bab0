package registry

import "strings"

// challenge is one way in that a registry offers (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string            // lower case: basic, bearer
	params map[string]string // names in lower case
}

// maxChallenge bounds the header, in bytes.
const maxChallenge = 16 << 10

// parseChallenges reads WWW-Authenticate headers. What can't be read ends its
// header; what was read before counts.
func parseChallenges(headers []string) []challenge {
	var out []challenge
	for _, h := range headers {
		if len(h) > maxChallenge {
			continue
		}
		out = append(out, parseChallenge(h)...)
	}
	return out
}

func parseChallenge(s string) []challenge {
	var out []challenge
	for s = skipSeparators(s); s != ""; s = skipSeparators(s) {
		name, rest := cutToken(s)
		if name == "" {
			return out
		}
		after := strings.TrimLeft(rest, " \t")
		if value, ok := strings.CutPrefix(after, "="); ok && len(out) > 0 {
			v, rest, ok := cutValue(strings.TrimLeft(value, " \t"))
			if !ok {
				return out
			}
			out[len(out)-1].params[strings.ToLower(name)] = v
			s = rest
			continue
		}
		out = append(out, challenge{scheme: strings.ToLower(name), params: map[string]string{}})
		s = rest
	}
	return out
}

func skipSeparators(s string) string { return strings.TrimLeft(s, " \t,") }

func cutToken(s string) (token, rest string) {
	i := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

// cutValue reads a token or a quoted string.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
