package containers

import (
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
)

const (
	adjectives = "amber brave brisk calm clear clever crisp eager early fair fleet fond fresh gentle glad golden good happy hardy honest jolly keen kind lively lucid lucky mellow merry mild neat nimble noble patient plain polite proud quick quiet ready sharp shy silent simple sleek snug solid steady still strong sunny sure swift tidy true upbeat vivid warm wise witty young"
	surnames   = "ada babbage bartik bell bohr boole cerf church cray curie darwin diffie dijkstra engelbart euler fermat floyd franklin gauss goldberg hamming hamilton hertz hoare holberton hopper hypatia iverson johnson kay kepler kernighan knuth lamarr lamport leibniz liskov lovelace mccarthy mcilroy meitner milner moore naur newton noether nygaard pascal perlis perlman pike ritchie shannon spence stallman stroustrup tesla thompson torvalds turing wiles wirth wozniak zuse"
)

// NewID makes up an id: 64 hex digits, at random.
func NewID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// FreeName makes up a name that no container has.
func (t *Table) FreeName(id string) string {
	a, s := strings.Fields(adjectives), strings.Fields(surnames)
	t.mu.Lock()
	defer t.mu.Unlock()
	for try := range 20 {
		name := a[mathrand.IntN(len(a))] + "_" + s[mathrand.IntN(len(s))]
		if try > 5 {
			name += strconv.Itoa(mathrand.IntN(100))
		}
		if _, taken := t.names[name]; !taken {
			return name
		}
	}
	return "container_" + id[:12]
}
