package nft

import "sync"

// closing are sockets that nobody needs any more.
var closing = make(chan func(), 64)

var startClosing = sync.OnceFunc(func() {
	go func() {
		for end := range closing {
			end()
		}
	}()
})

// closeSoon closes a socket without waiting for it: until what a transaction has taken out of the tables is unused by all
// processors, which takes 10 ms and more, the kernel lets the end of any of netfilter's sockets wait (nft_rcv_nl_event). It does wait
// if too many wait already.
func closeSoon(end func()) {
	startClosing()
	closing <- end
}
