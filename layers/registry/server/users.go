package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Users are those of an htpasswd file with bcrypt hashes (htpasswd -B).
type Users struct {
	hashes map[string][]byte

	mu    sync.Mutex
	known map[string][sha256.Size]byte // passwords that were right, hashed; guarded by mu
}

// ParseUsers reads an htpasswd file. Other hashes than bcrypt's are refused:
// they are guessed too fast.
func ParseUsers(text string) (*Users, error) {
	u := &Users{hashes: map[string][]byte{}, known: map[string][sha256.Size]byte{}}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("htpasswd line %d: want name:hash", n)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("htpasswd line %d: the hash of %s is not bcrypt's; make it with htpasswd -B", n, name)
		}
		u.hashes[name] = []byte(hash)
	}
	if len(u.hashes) == 0 {
		return nil, fmt.Errorf("htpasswd: it has no user")
	}
	return u, nil
}

// Know tells whether the password is the user's. Bcrypt is slow on purpose,
// so one is computed at a time, and what was right is remembered. A name that
// is not known takes as long as one that is.
func (u *Users) Know(name, password string) bool {
	sum := sha256.Sum256([]byte(password))
	u.mu.Lock()
	defer u.mu.Unlock()
	if k, ok := u.known[name]; ok && subtle.ConstantTimeCompare(k[:], sum[:]) == 1 {
		return true
	}
	hash, ok := u.hashes[name]
	if !ok {
		for _, hash = range u.hashes {
			break
		}
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !ok {
		return false
	}
	u.known[name] = sum
	return true
}
