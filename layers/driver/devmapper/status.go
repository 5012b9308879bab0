package devmapper

import (
	"fmt"
	"strings"
)

// status is what the thin pool says of itself (kernel documentation,
// device-mapper/thin-provisioning.rst).
type status struct {
	transaction         uint64
	metaUsed, metaTotal uint64 // blocks of 4 KiB
	dataUsed, dataTotal uint64 // blocks of blockSectors
	mode                string // rw, ro, out_of_data_space
	needsCheck          bool
}

func parseStatus(s string) (st status, err error) {
	f := strings.Fields(s)
	if len(f) < 5 { // it has failed, and says just that
		return st, fmt.Errorf("the thin pool says %q", s)
	}
	_, err = fmt.Sscanf(strings.Join(f[:3], " "), "%d %d/%d %d/%d", &st.transaction, &st.metaUsed, &st.metaTotal, &st.dataUsed, &st.dataTotal)
	if err != nil || st.metaUsed > st.metaTotal || st.dataUsed > st.dataTotal {
		return st, fmt.Errorf("the thin pool says %q", s)
	}
	for _, word := range f[4:] {
		switch word {
		case "rw", "ro", "out_of_data_space":
			st.mode = word
		case "needs_check":
			st.needsCheck = true
		}
	}
	if st.mode == "" {
		return st, fmt.Errorf("the thin pool says %q", s)
	}
	return st, nil
}

// low tells what the pool is short of; empty if of nothing. An eighth of the
// metadata is kept for removals, which take some before they give any, and of
// the data a fiftieth for what containers that run write meanwhile.
func (st status) low() string {
	switch {
	case st.metaTotal-st.metaUsed < st.metaTotal/8:
		return fmt.Sprintf("%d of %d KiB of its metadata are used", st.metaUsed*4, st.metaTotal*4)
	case st.dataTotal-st.dataUsed < max(st.dataTotal/50, 2):
		return fmt.Sprintf("%d of %d MiB are used", st.dataUsed*blockBytes>>20, st.dataTotal*blockBytes>>20)
	}
	return ""
}

const damaged = "its metadata is damaged: stop the daemon, run `coble daemon --clean`, and thin_check and thin_repair (thin-provisioning-tools) on it; or remove the driver's folder and load all images again"

// broken tells why nothing can be written to the pool, however much is freed.
func (st status) broken() string {
	switch {
	case st.needsCheck:
		return damaged
	case st.mode == "ro":
		return "the kernel has made it read-only; the kernel's log says why"
	}
	return ""
}
