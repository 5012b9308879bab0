#!/bin/bash
# acceptance.sh COBLE SUITE IMAGES [FILE…]: runs a black-box Docker suite (bats) against a daemon of its own.
set -euo pipefail
coble=$(readlink -f "$1"); suite=$2; images=${3:-}; shift 3 || shift $#
[ -n "$suite" ] && [ -f "$suite/lib.bash" ] || { echo "usage: make acceptance SUITE=folder of the suite [IMAGES=folder] [FILES=…]" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "acceptance: the daemon needs root" >&2; exit 1; }
command -v docker >/dev/null || { echo "acceptance: the docker client is missing" >&2; exit 1; }
suite=$(readlink -f "$suite")
work=$(mktemp -d /tmp/coble-acc.XXXXXX)
if [ -z "$images" ]; then
  images=${XDG_CACHE_HOME:-$HOME/.cache}/coble/acceptance
  [ -s "$images/busybox.tar" ] || bash "$suite/make-images.sh" "$images"
fi
"$coble" daemon --root "$work/root" --run "$work/run" -H "unix://$work/run/coble.sock" >"$work/log" 2>&1 </dev/null &
keeper=$!
end() {
  kill "$keeper" 2>/dev/null || true
  wait "$keeper" 2>/dev/null || true
  "$coble" daemon --clean --root "$work/root" --run "$work/run" || true
  rm -rf "$work"
}
trap end EXIT
for _ in $(seq 100); do curl -s -o /dev/null --unix-socket "$work/run/coble.sock" http://localhost/_ping && break; sleep 0.1; done
export DOCKER_HOST=unix://$work/run/coble.sock COBLE_TEST_IMAGES=$images
cd "$suite"
[ $# -gt 0 ] || set -- 01-system.bats 04-lifecycle.bats 05-io.bats
BATS_TEST_TIMEOUT=${BATS_TEST_TIMEOUT:-90} bats "$@"
