package main

// networkings are what keeps networks, containers and the host apart.
func networkings() []mutant {
	in := func(name, file, old, new, run string) mutant {
		return mutant{"net: " + name, "netcfg/" + file, old, new, "./netcfg", run}
	}
	return []mutant{
		in("nothing comes into a network from outside", "nft/nft.go", "b.rule(forward, toOurs, verdict(expr.VerdictDrop))", "_ = toOurs", "TestNeighbourStaysOutside|TestWhoReachesWhom"),
		in("a list that changed while it was read is read again", "dump/dump.go", "!errors.Is(err, netlink.ErrDumpInterrupted)", "!errors.Is(err, netlink.ErrDumpInterrupted) || true", "TestChurn"),
		in("nothing leaves an internal network", "nft/nft.go", "b.rule(forward, in(expr.MetaKeyIIFNAME, internal, false), verdict(expr.VerdictDrop))", "", "TestWhoReachesWhom"),
		in("what the host publishes for itself is its own", "nft/nft.go", "b.daddrIn(loopback4), verdict(expr.VerdictDrop))", "b.daddrIn(loopback4), verdict(expr.VerdictAccept))", "TestWhoReachesWhom"),
		in("members that keep apart do", "link.go", "if !n.ICC {", "if false {", "TestWhoReachesWhom"),
		in("a packet has its sender's address", "nft/spoof.go", "rule(expr.VerdictAccept, is(unix.ETH_P_IP), owned(l.fours, header, 12, 4, false))", "rule(expr.VerdictAccept, is(unix.ETH_P_IP))", "TestSpoofing"),
		in("an ARP packet has its sender's address", "nft/spoof.go", "rule(expr.VerdictAccept, is(unix.ETH_P_ARP), owned(l.fours, header, arpSenderIP, 4, false))", "rule(expr.VerdictAccept, is(unix.ETH_P_ARP))", "TestSpoofing"),
		in("a frame has its sender's MAC address", "nft/spoof.go", "rule(expr.VerdictDrop, owned(l.macs, expr.PayloadBaseLLHeader, 6, 6, true))", "", "TestSpoofing"),
		in("a port is reached through the links that are listed", "nft/ports.go", "through = in(expr.MetaKeyIIFNAME, s, g.Except)", "through = []expr.Any{}", "TestListen"),
		in("a port is not reached through an uplink", "nft/ports.go", "through = in(expr.MetaKeyIIFNAME, s, g.Except)", "through = in(expr.MetaKeyIIFNAME, s, false)", "TestListen"),
		in("a name that nothing has keeps ports closed", "listen.go", "l.Links = append(append(l.Links, name), zones[name]...)", "l.Links = append(l.Links, zones[name]...)", "TestListen"),
		{"net: links with a default route are uplinks", "rt/engine/listen.go", "l.Links, err = netcfg.Uplinks()", "", "./rt/engine", "TestPlaces"},
		{"net: an engine follows what listen stands for", "rt/engine/listen.go", "netcfg.Follow(p.e.ctx.Done(), p.e.linksChanged)", "netcfg.Follow(p.e.ctx.Done(), func() {})", "./rt/daemon", "TestListen$"},
		in("a host that forwarded nothing is nobody's router", "nft/nft.go", "b.rule(forward, otherGroup(expr.MetaKeyIIFGROUP), otherGroup(expr.MetaKeyOIFGROUP), verdict(expr.VerdictDrop))", "", "TestGuests|TestFirewallComesLater"),
		in("a firewall decides what its host forwards", "forward.go", "r.Decided4, r.Decided6 = g[0] && others.Closed(false), g[1] && others.Closed(true)", "_ = others", "TestGuests|TestFirewallComesLater"),
		in("forwarding is off again after a clean-up", "netcfg.go", "err := errors.Join(stopForwarding(name), nft.Remove(name)", "err := errors.Join(nft.Remove(name)", "TestGuests"),
		in("a drop of others' is believed", "hostfw/hostfw.go", "if t.sees(p) && !t.passes(p) {", "if t.sees(p) && !t.passes(p) && false {", "TestGuests"),
		in("a neighbour advertises its own address", "nft/spoof.go", "owned(l.sixes, expr.PayloadBaseTransportHeader, 8, 16, true))", "owned(l.sixes, expr.PayloadBaseTransportHeader, 8, 16, false))", "TestSpoofedNeighbours"),
		in("a container is no router", "nft/spoof.go", "rule(expr.VerdictDrop, is(unix.ETH_P_IPV6), icmpv6(ndRouterAdvert))", "", "TestSpoofedNeighbours"),
		{"net: a kernel without NAT publishes by the proxy", "netcfg/published.go", "h.lacks++", "return err", "./qemu-tests/tests", "TestKernelsWithout/nat"},
		in("a proxied port is reached through the links that are listed", "published.go", "add(all, a.Index, true)", "add(all, 0, true)", "TestProxied"),
		in("without a guard there is no forwarding", "forward.go", "\t\tif h.lacks == lacksAll {\n\t\t\treturn nil\n\t\t}\n", "", "TestProxied"),
		{"net: the end of one direction is not the other's", "netcfg/proxy/tcp.go", "\tto.CloseWrite()\n", "\tto.Close()\n", "./netcfg/proxy", "TestTCP|TestEnds"},
		{"net: a proxy's UDP clients are bounded", "netcfg/proxy/udp.go", "if p.flows >= maxFlows {", "if false {", "./netcfg/proxy", "TestMadeUpClients"},
		{"net: a proxy's quiet clients go", "netcfg/proxy/udp.go", "if now.Sub(f.last) > quiet {", "if false {", "./netcfg/proxy", "TestUDP"},
		{"net: UDP answers come from the address that was called", "netcfg/proxy/udp.go", "oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: f.who.at.As4()})", "_ = oob", "./netcfg/proxy", "TestUDP"},
		in("who has a port of another address is not in the way", "holder.go", "everywhere := strings.Trim(host, \"0\") == \"\"", "everywhere := true", "TestHolder"),
		in("another engine's addresses and bridge are its own", "bridge.go", "if err := h.Free(n); err != nil {", "if err := error(nil); err != nil {", "TestTwoEngines"),
		in("another engine's links are its own", "netcfg.go", "wanted[a.Name] && !h.others(l) {", "wanted[a.Name] {", "TestTwoEngines"),
		in("links of the owner's stay on his bridge", "netcfg.go", "link := ours[a.MasterIndex] && a.Group == nft.LinkGroup && !used", "link := ours[a.MasterIndex] && !used", "TestOwnersBridge"),
		in("one engine's guard lets another's containers out", "bridge.go", "if link.Attrs().Group != nft.LinkGroup {", "if false {", "TestTwoEngines"),
		in("the second engine keeps the guard when the first goes", "forward.go", "if err != nil || !others[i] {", "if err != nil || !others[i] || true {", "TestTwoEngines"),
		in("links come back onto a bridge that was removed", "bridge.go", "if bridge == nil || link.Attrs().MasterIndex == bridge.Attrs().Index {", "if true {", "TestVanished"),
		in("and are kept apart again", "bridge.go", "if apart[want.Bridge] {", "if false {", "TestVanished"),
		{"net: a link that was removed is made anew", "rt/engine/network.go", "\te.replug(e.net.Missing())\n", "", "./rt/daemon", "TestVanishedLinks"},
		{"net: two engines do not share a subnet", "rt/engine/network.go", "\te.settled.Do(e.settleDefault)\n", "", "./rt/daemon", "TestTwoEngines"},
		in("links that nobody wants go", "netcfg.go", "if !link && !made {", "if !link && !made || true {", "TestPublishedPorts|TestWhoReachesWhom"),
		in("rules that are there are left alone", "nft/nft.go", "\tif current {\n\t\treturn nil\n\t}\n", "", "TestSetTwiceChangesNothing"),
		{"net: no address is given out twice", "netcfg/ipam/ipam.go", `if p.byAddr[a] == "" && p.usable(a) {`, "if p.usable(a) {", "./netcfg/ipam", "."},
		{"net: addresses are claimed back after a restart", "rt/engine/adopt.go", "\t\te.claimLeases(c)\n", "", "./rt/daemon", "TestNetworksOutliveTheEngine"},
		{"net: names are answered by the next engine too", "rt/engine/adopt.go", "if err := c.serveNames(c.ends(), st.Pid); err != nil {", "if err := error(nil); err != nil {", "./rt/daemon", "TestNetworksOutliveTheEngine"},
		{"net: one start takes nothing from the others", "rt/engine/network.go", "\te.applying.Lock()\n\tdefer e.applying.Unlock()\n", "", "./rt/daemon", "TestStartsBesideEachOther"},
		{"net: names stay in their network", "rt/engine/dns.go", "if mine[end.Network] {", "if true {", "./rt/daemon", "TestNetworksOutliveTheEngine"},
	}
}
