// Package netview is the answer of GET /coble/net: who is connected to what, as data. It decides and shows nothing.
package netview

// View is all of it.
type View struct {
	Firewall string   `json:",omitempty"` // whose guest coble is
	Advice   []string `json:",omitempty"` // what its owner has to do for published ports to be reached
	Proxy    string   `json:",omitempty"` // why ports are published by the engine itself
	Counts   string   `json:",omitempty"` // why nothing is counted
	Networks []*Network
}

// Network is one network and who is in it.
type Network struct {
	ID, Name, Driver  string
	Internal          bool     `json:",omitempty"`
	Subnets, Gateways []string `json:",omitempty"`
	Link              string   `json:",omitempty"` // its bridge, or the link of the host's that its containers share
	Members           []*Member
}

// Member is a container that runs in it.
type Member struct {
	ID, Name  string
	HostLink  string   `json:",omitempty"` // the host's end of its link
	Link      string   `json:",omitempty"` // its own
	Addresses []string `json:",omitempty"`
	Ports     []*Port  `json:",omitempty"` // that lead to it through this network
}

// Port is a published port, and what went through it both ways since the container's start.
type Port struct {
	At          string   // address and port, or the port alone: at every address
	From        []string `json:",omitempty"` // links and addresses that it is reached through; none: all
	Except      bool     `json:",omitempty"` // through all but those
	To          uint16   // the container's port
	Proto       string
	Packets     uint64 // 0 where the engine publishes, which sees none
	Bytes       uint64
	Connections uint64 `json:",omitempty"` // seen where the engine publishes
}
