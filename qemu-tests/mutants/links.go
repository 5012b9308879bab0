package main

// ownLinks is what keeps the machine's own links as its owner says, and what strangers on them say out.
func ownLinks() []mutant {
	in := func(name, file, old, new, run string) mutant {
		return mutant{"links: " + name, "netcfg/links/" + file, old, new, "./netcfg/links", run}
	}
	asks := func(name, file, old, new, run string) mutant {
		return mutant{"dhcp: " + name, "netcfg/dhcp/" + file, old, new, "./netcfg/dhcp", run}
	}
	says := func(name, file, old, new, run string) mutant {
		return mutant{"mdns: " + name, "netcfg/mdns/" + file, old, new, "./netcfg/mdns", run}
	}
	return []mutant{
		in("what an address was taken away for is heard first", "taken.go", "if !gone {", "if !gone || true {", "TestGoneIsHeardFirst"),
		in("others' links are not removed", "diff.go", "\t\tif !strings.HasPrefix(v.Alias, mark) {\n\t\t\tcontinue\n", "\t\tif v.Kind == \"device\" {\n\t\t\tcontinue\n", "TestBridge|TestOthersLinks"),
		in("others' links are not set up", "diff.go", "if v.Group != group || v.Alias != \"\" || !d.s.built(l, v) {", "if false {", "TestBridge|TestOthersLinks"),
		in("others' ports stay where they are", "diff.go", "m.Index == v.Master && strings.HasPrefix(m.Alias, mark) &&", "m.Index == v.Master &&", "TestOthersLinks"),
		in("others' addresses stay", "kernel.go", "/promote_secondaries\", []byte(\"1\")", "/promote_secondaries\", []byte(\"0\")", "TestStatic"),
		in("what coble gave is known to the next engine", "links.go", "err = replace(k.o.Memory, string(b))", "err = replace(k.o.Memory, string(b[:0]))", "TestStatic"),
		in("a leased address ends in the kernel", "kernel.go", "if !c.Until.IsZero() {", "if false {", "TestAsking"),
		in("an engine goes on with the address that it finds", "links.go", "d.Held, c.lease = m.Lease, m.Lease", "d.Held = nil", "TestAsking"),
		in("carrier that returns is another network's maybe", "links.go", "if v.Carrier && !c.carrier {", "if false {", "TestAsking"),
		in("a way without carrier is left", "kernel.go", "os.WriteFile(linkdownFile(\"ipv4\", c.Link), []byte(c.Value), 0)", "error(nil)", "TestFailover"),
		in("resolv.conf is written when it changes only", "resolv.go", "err == nil && string(have) == content {", "err == nil && string(have) == content && false {", "TestStatic"),
		in("what can't be done holds up nothing else", "links.go", "\t\t\tk.problem(err)\n\t\t\tk.failed[c.Link] = strings.TrimPrefix(err.Error(), c.Link+\": \")\n\t\t\tgood = false\n\t\t} else if k.o.Changed", "\t\t\tk.problem(err)\n\t\t\tk.failed[c.Link] = strings.TrimPrefix(err.Error(), c.Link+\": \")\n\t\t\treturn false\n\t\t} else if k.o.Changed", "TestImpossible"),
		in("what routers say ends", "ra.go", "if !has || !obeyed || !a.Until.After(now) {", "if !has || !obeyed && false {", "TestRouterNamesServers"),
		in("an option that is longer than its message is none", "ra.go", "if size < 8 || size > len(o) {", "if false {", "TestReadAdvert"),
		in("a circle is left out", "config.go", "if l := find(o.all, name); l != nil && !o.bad[name] {", "if l := find(o.all, name); l != nil {", "TestOrder"),
		asks("another server than the one that was asked has no say", "dhcp.go", "m.state == renewing && !bytes.Equal(l.server, m.held.server):", "false:", "TestStrangersHaveNoSay"),
		asks("another client's answer is not ours", "v4.go", "!bytes.Equal(b[28:28+len(c.hw)], c.hw) ||", "false ||", "TestStrangersHaveNoSay"),
		asks("names that would be lines of resolv.conf are refused", "v4.go", "if next <= at || !plainName(name) {", "if next <= at {", "TestNames"),
		asks("a lease of nothing is refused", "v4.go", "total != 32 || bits == 0 || valid < shortest {", "total != 32 || bits == 0 {", "TestLease4"),
		asks("an address that no host can have is refused", "v4.go", "return !a.IsUnspecified() &&", "return true || !a.IsUnspecified() &&", "TestLease4"),
		asks("a server that fails takes nothing away", "v6.go", "(status == noBinding6 || status == notOnLink6 || status == 0):", "true:", "TestIPv6"),
		in("a link without a lease is told of", "status.go", "			add(noLease(v6, c.trouble))\n", "", "TestJudge|TestStatus"),
		in("who has an address is told of until there is another", "links.go", "	if l.lease != nil {\n		l.from.trouble", "	if true {\n		l.from.trouble", "TestTrouble"),
		in("a link that misses something is not up", "status.go", "if _, has := v.Addresses[p]; !has ||", "if _, has := v.Addresses[p]; has && !has ||", "TestJudge"),
		in("a router does not obey itself", "ra.go", "case l.RA != nil || l.PrefixFrom != \"\":", "case l.RA != nil:", "TestSharesInDiff"),
		in("since when a link is so is not the last look", "status.go", "was.State == st.State", "false", "TestStatus"),
		in("an address that is in use is told of", "links.go", "		l.from.trouble = l.trouble\n", "", "TestTaken"),
		in("an address whose prefix is lost is deprecated", "delegate.go", "		s.Preferred = now\n", "", "TestDeprecate|TestDelegated"),
		in("an address whose prefix is lost goes", "delegate.go", "s.Until.IsZero() || s.Until.After(end) {", "false {", "TestDeprecate"),
		in("a subnet that another link has now goes from the first", "delegate.go", "			if o.Address == s.Address {\n				return", "			if o.Address == is[link].Address {\n				return", "TestDeprecate"),
		in("two links have not one subnet", "delegate.go", "		for taken[next] {\n			next++\n		}\n", "", "TestSubnet"),
		in("a subnet is part of the prefix", "delegate.go", "64-p.Bits() < 31 && n >= 1<<(64-p.Bits())", "false", "TestSubnet"),
		in("what no link has of a prefix is refused", "diff.go", "		if lease.Prefix.IsValid() {\n			all", "		if false {\n			all", "TestSharesInDiff|TestDelegated"),
		in("an engine goes on with a prefix", "delegate.go", "if !delegate || !l.PrefixUntil", "if true || !l.PrefixUntil", "TestDelegated"),
		asks("what no site can have is no prefix", "v6.go", "err == nil && delegable(prefix) &&", "err == nil &&", "TestDelegation"),
		asks("a server with a prefix is waited for", "dhcp.go", "		if !l.partial {\n			return m.request(now)", "		if true {\n			return m.request(now)", "TestDelegation"),
		asks("a prefix that goes takes no address along", "v6.go", "	case has: // servers", "	case has && !l.partial: // servers", "TestDelegation"),
		{"configs: two links have not one subnet", "configs/links.go", "case subnet != \"\" && holders[subnet] != \"\":", "case false:", "./configs", "TestLinkMistakes"},
		asks("an address is looked for before it is used", "dhcp.go", "if m.probes && (!had || m.state == rebooting) {", "if false {", "TestProbe|TestNeighbourHasIt"),
		asks("an address that somebody has is not used", "probe.go", "	case probing:\n", "	case selecting:\n", "TestDecline|TestNeighbourHasIt"),
		asks("an address that was in use is given back", "probe.go", "		m.held = l.withoutAddress()\n", "", "TestDefend|TestProbe"),
		asks("an address is defended", "probe.go", "if now.Sub(m.announced) < defendEvery {", "if true {", "TestDefend"),
		asks("an address is not fought for", "probe.go", "if now.Sub(m.announced) < defendEvery {", "if false {", "TestDefend|TestNeighbourHasIt"),
		asks("a server that gives what others have is not asked all the time", "probe.go", "firstPause<<min(tries, 3)", "0<<min(tries, 3)", "TestDecline"),
		asks("only claims of the address come in", "arp.go", "{Code: jeq, K: binary.BigEndian.Uint32(addr.AsSlice()), Jf: 5},", "{Code: jeq, K: binary.BigEndian.Uint32(addr.AsSlice())},", "TestStrangersARP"),
		asks("a DECLINE is repeated until the server has heard", "probe.go", "if !m.probes && m.tries < patience-1 {", "if false {", "TestDecline6"),
		asks("a prefix stays when its address is declined", "probe.go", "	if !l.Prefix.IsValid() {\n", "	if true {\n", "TestDecline6"),
		in("a server hears of an IPv6 address that somebody has", "taken.go", "	c.taken <- at.address.Addr()\n", "", "TestTakenSixAgain"),
		in("an IPv6 address that somebody has is not added without end", "links.go", "			k.removed = append(k.removed, l)\n", "			_ = l\n", "TestTakenSixAgain"),
		in("an address that somebody has is tried after a pause", "diff.go", "c != nil && !c.trying {", "false && !c.trying {", "TestTakenStaticSix"),
		in("an address that somebody has is tried again", "taken.go", "c.trying || !now.Before(c.again)", "c.trying", "TestTakenStaticSix"),
		in("a static IPv6 address that somebody has is told of", "status.go", "			add(inUse(p))\n", "", "TestTakenStaticSix"),
		in("an address that was removed is not one that somebody has", "taken.go", "b[2]&(failed|permanent) != failed", "b[2]&failed != failed", "TestReadLost"),
		in("a static IPv4 address that somebody has is told of", "status.go", "			add(inUseToo(p, w.who))\n", "", "TestTakenStaticFour"),
		says("who is not on the link is not answered", "mdns.go", "|| !m.onLink(from.Addr().Unmap()) {", "{", "TestAnswers"),
		says("another's name is not taken", "mdns.go", "from.Port() == 5353 && len(q.others) > 0:", "false:", "TestConflicts"),
		says("names are not fought for without end", "mdns.go", "if m.n > 10 {", "if false {", "TestConflicts"),
		says("nobody is made to shout", "mdns.go", "if now.Sub(m.last) < time.Second && len(q.rival) == 0 {", "if false {", "TestAnswers"),
		says("one's own words from an address of before are not another's", "mdns.go", "|| m.echoes(now, from.Addr().Unmap()) ||", "||", "TestEcho"),
		says("addresses that go are taken back", "mdns.go", "if m.addrs = without(was, addrs); len(m.addrs) > 0 {", "if false {", "TestLife"),
		{"configs: a mistake in a list of tables costs no container", "configs/document.go", `inner := strings.TrimLeft(line, "[")`, `inner, _ := strings.CutPrefix(line, "[")`, "./configs", "TestTablesBehindContainers"},
	}
}
