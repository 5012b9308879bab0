package keeper

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func signals() <-chan os.Signal {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGTERM, unix.SIGHUP)
	return c
}
