package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
)

// DefaultModules lists what coble uses on a stock kernel, in the order in which
// it is wanted: disks first. Much of it is built into some kernels; what a
// kernel does not have is not an error.
func DefaultModules() []string {
	return strings.Fields(`
		crc32c_generic
		virtio_pci virtio_mmio nvme virtio_blk virtio_scsi sd_mod ext4
		overlay loop
		virtio_net virtio_rng e1000 e1000e af_packet
		bridge veth
		nf_tables nf_conntrack nft_ct nft_nat nft_masq nft_chain_nat nft_redir
		nft_fib nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_meta_bridge nft_reject nft_reject_inet nft_limit nft_log nft_counter
		button evdev gpio_keys`)
}

// LoadModules loads the named modules with what they depend on, out of
// /lib/modules of the running kernel; parameters may stand behind a name, as in
// "bonding max_bonds=0". Modules that are loaded or built in are
// left alone. Names that the kernel does not have are returned; err joins what
// went wrong with the others, which does not keep the rest from being loaded.
func LoadModules(names []string) (missing []string, err error) {
	prober, err := kmodule.NewProber(kmodule.ProbeOpts{})
	if errors.Is(err, os.ErrNotExist) { // a kernel without modules
		return names, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read module dependencies: %w", err)
	}
	var errs []error
	for _, name := range names {
		module, params, _ := strings.Cut(name, " ")
		err := prober.Probe(module, params)
		switch {
		case err == nil:
		case strings.HasPrefix(err.Error(), "could not find module path"):
			missing = append(missing, name)
		default:
			errs = append(errs, fmt.Errorf("load module %s: %w", name, err))
		}
	}
	return missing, errors.Join(errs...)
}
