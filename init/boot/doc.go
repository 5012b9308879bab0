// Package boot holds the steps between the keeper's first mounts and the first
// container, as plain functions for the engine to run as jobs: kernel modules,
// host name, loopback, the data disk, the power button, a shell
// on the console. Each is idempotent: an engine that dies half-way runs them
// again. None of them decides what happens on an error, none reads
// configuration, and none starts a process except Shell.
package boot
