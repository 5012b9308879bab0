package configs

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Age is a length of time, written as "30d", "12h" or what time.ParseDuration reads.
type Age time.Duration

const day = 24 * time.Hour

// UnmarshalText reads a whole number of days, or hours, minutes and seconds. It must be more than nothing.
func (a *Age) UnmarshalText(b []byte) error {
	text := string(b)
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		if n > 100_000 {
			err = strconv.ErrRange
		}
		d = time.Duration(n) * day
	}
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not a length of time: write it as \"30d\" or \"12h\"", b)
	}
	*a = Age(d)
	return nil
}

func (a Age) String() string {
	if d := time.Duration(a); d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return time.Duration(a).String()
}
