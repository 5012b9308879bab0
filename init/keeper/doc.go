// Package keeper is the one process that must not die: process 1 of an
// appliance, a sub-reaper elsewhere. It starts the engine, starts it again when
// it ends, keeps descriptors and exit statuses for it meanwhile, and owns
// shutdown. It never parses configuration, never listens on a network, never
// decides anything about a container, and imports only the standard library and
// golang.org/x/sys/unix.
//
// # What the engine gets
//
// The engine is started in a session of its own with stdin on /dev/null and the
// keeper's stdout and stderr, through a descriptor of its binary (so its comm
// is a number until it writes /proc/self/comm), and with
//
//	NOTIFY_SOCKET=RunDir/notify   where it sends the datagrams below
//	LISTEN_FDS=n                  descriptors 3 … 3+n-1 are inherited
//	LISTEN_FDNAMES=keeper:a:b     their names, in order
//	LISTEN_PPID=p                 the keeper; stands in for systemd's LISTEN_PID,
//	                              which nobody can know before the fork
//
// The descriptor named "keeper" is a SOCK_SEQPACKET socket on which the keeper
// sends one text datagram per child that it reaped and that was not the engine:
//
//	EXIT <pid> <starttime> <waitstatus>\n
//
// pid in the keeper's namespace, starttime is field 22 of /proc/PID/stat in
// clock ticks (0: unknown), waitstatus as in wait(2), all decimal. At the start
// of an engine come all remembered exits, then "READY\n", then new ones as they
// happen. End of file means that the keeper is gone. The table holds MaxExits
// entries, the oldest is dropped. The engine answers with FORGET for each entry
// that it has committed or does not know.
//
// # What the engine says
//
// Datagrams of KEY=value lines as in sd_notify(3), at most 8 KiB, taken only
// from the engine's own pid:
//
//	READY=1, STATUS=text, STOPPING=1, EXTEND_TIMEOUT_USEC=n   as in sd_notify
//	FDSTORE=1 FDNAME=x      keep the attached descriptors under the name x; never
//	                        polled, like systemd's FDPOLL=0; x may repeat
//	FDSTOREREMOVE=1 FDNAME=x  close all descriptors named x
//	BARRIER=1               the attached descriptor is closed when all earlier
//	                        datagrams have been handled
//	FORGET=<pid> <starttime>  drop an entry of the exit table; may repeat
//	SHUTDOWN=poweroff|reboot|halt  begin an orderly shutdown: the keeper answers
//	                        with SIGTERM, the engine stops containers and exits
//	REEXEC=1                replace the keeper by the binary now at its path
//
// READY, STATUS, STOPPING and EXTEND_TIMEOUT_USEC are passed on to the
// NOTIFY_SOCKET that the keeper itself was started with.
//
// # Ends
//
// SIGTERM, SIGINT, SIGPWR and SHUTDOWN= take one path: SIGTERM to the engine, a
// bounded wait (60 s or EXTEND_TIMEOUT_USEC), SIGKILL; as process 1 then TERM
// and KILL to all, unmount in reverse, sync, reboot(2) (SIGINT, which is
// ctrl-alt-del, reboots; the others power off). An engine that exits with 0
// after STOPPING=1 ends a keeper that is not process 1. SIGHUP goes to the
// engine. SIGUSR2 replaces the keeper in place; the engine does not notice.
//
// RunDir holds keeper.pid, engine.pid, keeper.lock, notify, and keeper.log:
// the last 64 KiB of what the keeper had to say, each line beginning with
// CLOCK_BOOTTIME in seconds.
package keeper
