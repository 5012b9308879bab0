# Runs in the Debian. Each step says what came of it in a line of its own: "step NAME: STATUS OUTPUT".
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs tmpfs /tmp
step() {
	name=$1
	shift
	out=$("$@" 2>&1)
	echo "step $name: $? $(echo "$out" | tr '\r\n' '  ')"
}

mkdir -p /tmp/root/bin /tmp/root/proc /tmp/root/sys /tmp/root/dev
cp /bin/busybox /tmp/root/bin/
for a in sh cat echo sleep id grep head tty test true; do ln -s busybox /tmp/root/bin/$a; done
tar -C /tmp/root -cf /tmp/root.tar .
podman() {
	timeout 120 /usr/bin/podman --cgroup-manager systemd --runtime /usr/local/bin/runc --events-backend file "$@"
}
P="--network none"
step version runc --version
# A podman that starts while the machine still does has been seen to lose the name.
import() {
	for try in 1 2 3; do
		podman import /tmp/root.tar box && podman image exists box && return
	done
	return 1
}
step import import

step podman-run podman run --rm $P box sh -c 'echo hello; exit 3'
step podman-cgroup podman run --rm $P --cgroupns host -m 64m --pids-limit 33 --cpus 0.5 box sh -c \
	'grep -o "/machine.slice.*" /proc/self/cgroup | head -n 1; cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes pids.max pids/pids.max cpu.max cpu/cpu.cfs_quota_us 2>/dev/null; true'
step podman-tty podman run --rm -t $P box tty
step podman-missing podman run --rm $P box nope
step podman-detach podman run -d --name one $P -m 32m box sleep 1000
step podman-exec podman exec one sh -c 'cat /proc/1/comm; exit 4'
step podman-scope sh -c 'systemctl list-units --no-legend --plain "libpod-*.scope" | grep -v conmon | cut -d" " -f1,3,4'
step podman-limit sh -c 'systemctl show $(systemctl list-units --no-legend --plain "libpod-*.scope" | grep -v conmon | cut -d" " -f1) | grep -E "^Memory(Max|Limit)=[0-9]"'
step podman-pid podman run --rm $P --pid container:one box cat /proc/1/comm
step podman-pause podman pause one
step podman-unpause podman unpause one
step podman-remove podman rm -f -t 0 one
step podman-gone sh -c 'systemctl list-units --all --no-legend "libpod-*.scope" | grep -vc conmon'

mkdir -p /tmp/bundle
cp -r /tmp/root /tmp/bundle/rootfs
cd /tmp/bundle
runc spec
sed -i 's/"terminal": true/"terminal": false/; s/"sh"$/"sleep", "1000"/; s/"linux": {/"linux": { "cgroupsPath": "test.slice:coble:own",/' config.json
step own-run sh -c 'runc --systemd-cgroup run -d own </dev/null >/tmp/own.log 2>&1; e=$?; cat /tmp/own.log; exit $e'
step own-scope sh -c 'systemctl show -p ControlGroup -p ActiveState coble-own.scope; grep -o "/test.slice.*" /proc/$(runc list | grep own | tr -s " " | cut -d" " -f2)/cgroup | sort -u'
step own-update runc update --pids-limit 44 own
step own-limit sh -c 'systemctl show -p TasksMax coble-own.scope; cat /sys/fs/cgroup/*/coble-own.scope/pids.max /sys/fs/cgroup/pids/*/coble-own.scope/pids.max 2>/dev/null; true'
systemctl daemon-reload
step own-reload sh -c 'sleep 1; cat /sys/fs/cgroup/*/coble-own.scope/pids.max /sys/fs/cgroup/pids/*/coble-own.scope/pids.max 2>/dev/null; true'
step own-delete runc delete --force own
step own-gone sh -c 'systemctl show -p LoadState -p ActiveState coble-own.scope; find /sys/fs/cgroup -name coble-own.scope'

cat >/tmp/profile <<'END'
profile coble-test flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  signal,
  deny /forbidden r,
}
END
step apparmor-load apparmor_parser -r /tmp/profile
echo secret >rootfs/forbidden
sed -i 's/"process": {/"process": { "apparmorProfile": "coble-test",/; s/"cgroupsPath": "test.slice:coble:own",//' config.json
step apparmor-run sh -c 'runc run -d confined </dev/null >/tmp/own.log 2>&1; e=$?; cat /tmp/own.log; exit $e'
step apparmor-first runc exec confined cat /proc/1/attr/current
step apparmor-exec runc exec confined sh -c 'cat /proc/self/attr/current /forbidden'
step apparmor-other runc exec --apparmor unconfined confined cat /proc/self/attr/current /forbidden
step apparmor-delete runc delete --force confined
sed -i 's/coble-test/coble-nowhere/' config.json
step apparmor-missing sh -c 'runc run confined </dev/null 2>&1'

podman save -o /tmp/box.tar box >/dev/null 2>&1
containerd >/tmp/containerd.log 2>&1 &
for i in $(seq 200); do ctr version >/dev/null 2>&1 && break; sleep 0.2; done
step ctr-import ctr image import --snapshotter native /tmp/box.tar
R="--rm --snapshotter native --runc-binary /usr/local/bin/runc"
step ctr-run timeout 120 ctr run $R localhost/box:latest a sh -c 'echo hello; exit 5'
step ctr-systemd timeout 120 ctr run $R --runc-systemd-cgroup --cgroup system.slice:ctr:b localhost/box:latest b grep -m 1 -o '/system.slice.*' /proc/self/cgroup
step ctr-detach timeout 120 ctr run -d --snapshotter native --runc-binary /usr/local/bin/runc localhost/box:latest c sleep 1000
step ctr-exec timeout 60 ctr task exec --exec-id x c cat /proc/1/comm
step ctr-kill timeout 60 ctr task kill -s KILL c
step ctr-delete sh -c 'sleep 1; timeout 60 ctr task delete c; ctr container delete c'
echo "steps end"
