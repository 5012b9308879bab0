#!/bin/bash
# run.sh COBLE SUITE [TEST…]: runs the runtime validation suite of opencontainers/runtime-tools, whose source is in the
# folder SUITE, against `coble runc`, or against $RUNTIME if that is set. It writes nothing to SUITE. One line a test:
# passed, failed or silent (it checked nothing), and the first lines of what went wrong. It ends with 0 if all tests in
# the file passed did, which docs/conformance.md says that coble passes. KEEP=1 leaves what the tests wrote in /tmp.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
coble=$(readlink -f "$1"); suite=$2; shift 2
[ -n "$suite" ] && [ -d "$suite/validation/util" ] || { echo "usage: make validation SUITE=folder of runtime-tools [TESTS=…]" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "validation: the suite needs root" >&2; exit 1; }
# Some tests leave mounts behind with some runtimes: they go with a mount namespace.
[ -n "${VALIDATION_NS:-}" ] || VALIDATION_NS=1 exec unshare -m --propagation private "$0" "$coble" "$suite" "$@"
suite=$(readlink -f "$suite")
built=${COBLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coble}/validation
work=$(mktemp -d /tmp/coble-val.XXXXXX)
chmod 755 "$work" # users of user namespaces come through

# build NAME PACKAGE: with the suite's own vendored modules; what is up to date is left alone.
build() { (cd "$suite" && CGO_ENABLED=0 go build -mod=vendor -buildvcs=false -o "$built/$1" "$2"); }

# wrap makes one executable of the runtime and its flags: the suite takes no flags, and state is apart. Debian 12's crun
# knows specs up to version 1.1, and is told that the suite's are.
wrap() {
  local command="'$coble' runc"
  [ -z "${RUNTIME:-}" ] || command="'$RUNTIME'"
  {
    echo '#!/bin/sh'
    case ${RUNTIME:-} in *crun)
      echo 'was=; for a; do [ "$was" != --bundle ] || sed -i "s/\"ociVersion\": *\"1.[23][.0-9]*\"/\"ociVersion\":\"1.1.0\"/" "$a/config.json"; was=$a; done' ;;
    esac
    echo "exec $command --root '$work/state' \"\$@\""
  } >"$work/runtime"
  chmod +x "$work/runtime"
}

# hide lets crun see a hybrid machine, whose v2 tree has no controllers, as the v1 machine that it is for crun.
hide() {
  local f=/sys/fs/cgroup/unified/cgroup.controllers
  case ${RUNTIME:-} in *crun) [ ! -e "$f" ] || { : >"$work/empty" && mount --bind "$work/empty" "$f"; } ;; esac
}

# verdict FILE STATUS: of the TAP in FILE. The suite's own harness takes a test that ends well and says "not ok" to
# nothing for passed, and so does this; silent ones checked nothing, and wrote down why.
verdict() {
  awk -v status="$2" '
    /^not ok/ && !/# (SKIP|TODO)/ { bad = 1 }
    /^ok/ { n++ }
    END { print bad || status != 0 ? "failed" : n ? "passed" : "silent" }' "$1"
}

clean() {
  for c in $("$work/runtime" list -q 2>/dev/null); do "$work/runtime" delete --force "$c" >/dev/null 2>&1 || true; done
}
end() {
  clean
  awk -v w="$work/" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l || true
  rm -rf --one-file-system "$work"
}
trap end EXIT
[ -z "${KEEP:-}" ] || trap - EXIT

mkdir -p "$built"
build runtimetest ./cmd/runtimetest
hide
cp "$built/runtimetest" "$suite/rootfs-$(go env GOARCH).tar.gz" "$work"
wrap
[ $# -gt 0 ] || set -- $(cd "$suite/validation" && ls -d */ | tr -d / | grep -v '^util$')
mkdir -p "$work/out"
missed=0
for t in "$@"; do
  build "$t.t" "./validation/$t"
  status=0
  (cd "$work" && RUNTIME="$work/runtime" TMPDIR="$work" timeout -k 5 "${VALIDATION_TIMEOUT:-120}" "$built/$t.t") >"$work/out/$t" 2>"$work/err" </dev/null || status=$?
  v=$(verdict "$work/out/$t" "$status")
  printf '%-36s %s\n' "$t" "$v"
  [ "$v" = passed ] || { grep -hE '^not ok|"error":' "$work/out/$t" | head -n 4; head -n 4 "$work/err"; } | sed "s/^/    /" || true
  if [ "$v" = failed ] && grep -qx "$t" "$here/passed"; then missed=$((missed + 1)); echo "    coble is known to pass this"; fi
  clean
done
[ -n "${RUNTIME:-}" ] || [ "$missed" = 0 ] || { echo "validation: $missed tests failed that coble is known to pass" >&2; exit 1; }
