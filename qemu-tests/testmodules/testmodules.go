// Package testmodules names the kernel modules that the machines of the tests have: who packs them and who loads them are two
// programs.
package testmodules

import "github.com/coble-os/coble/init/boot"

// Late is loaded for the tests that want it, since it shows in every network namespace: it has a file in /sys/class/net.
const Late = "bonding"

// All are what tests of file systems and links need beside what coble loads itself.
func All() []string {
	return append(boot.DefaultModules(), "btrfs", "xfs", "quota_v2", "squashfs", "erofs", "dm_thin_pool", "8021q", Late, "wireguard", "dummy", "macvlan", "ipvlan", "sch_tbf")
}
