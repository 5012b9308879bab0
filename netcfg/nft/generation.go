package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Generation is the number of the host's rules, of all tables: each transaction that changes something counts it up by one
// (net/netfilter/nf_tables_api.c, nf_tables_commit), whoever made it, and nothing else does. One question, where the rules would be many.
func Generation() (uint32, error) {
	g, err := generation()
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of nftables' rules: %w", missing(err))
	}
	return g, nil
}

// generation writes its question itself: a start asks several times, and by the connection of package nftables', or by that of
// vishvananda/netlink, the network's part of it takes a third or a tenth longer (netcfg.BenchmarkPlug).
func generation() (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer closeSoon(func() { unix.Close(fd) })
	const header = unix.SizeofNlMsghdr + 4 // with struct nfgenmsg
	ask := make([]byte, header)
	binary.NativeEndian.PutUint32(ask, header)
	binary.NativeEndian.PutUint16(ask[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buf := make([]byte, 512)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, err
	}
	// NFTA_GEN_ID is the first attribute (nf_tables_fill_gen_info), in network order.
	switch a := buf[header:]; {
	case n >= header && binary.NativeEndian.Uint16(buf[4:]) == unix.NLMSG_ERROR:
		return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])))
	case n < header+8 || binary.NativeEndian.Uint16(a[2:]) != unix.NFTA_GEN_ID:
		return 0, errors.New("an answer without one")
	default:
		return binary.BigEndian.Uint32(a[4:]), nil
	}
}
