#!/bin/bash
# conformance.sh COBLE SUITE: runs the conformance tests of opencontainers/distribution-spec (SUITE is their folder)
# against a registry of its own, without users and then with TLS and htpasswd.
set -euo pipefail
coble=$(readlink -f "$1"); suite=${2:-}
[ -n "$suite" ] && [ -f "$suite/main.go" ] || { echo "usage: make conformance SUITE=the folder conformance of opencontainers/distribution-spec" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "conformance: the daemon needs root" >&2; exit 1; }
work=$(mktemp -d /tmp/coble-conf.XXXXXX)
(cd "$suite" && go build -o "$work/suite" .)
sock=unix://$work/run/coble.sock
"$coble" daemon --root "$work/root" --run "$work/run" -H "$sock" >"$work/log" 2>&1 </dev/null &
keeper=$!
serve=
end() {
  [ -z "$serve" ] || kill "$serve" 2>/dev/null || true
  kill "$keeper" 2>/dev/null || true
  wait "$keeper" 2>/dev/null || true
  "$coble" daemon --clean --root "$work/root" --run "$work/run" || true
  rm -rf "$work"
}
trap end EXIT
for _ in $(seq 100); do curl -s -o /dev/null --unix-socket "$work/run/coble.sock" http://localhost/_ping && break; sleep 0.1; done

# serve FLAG…: a registry on a free port, whose address is then in $addr
serve() {
  "$coble" -H "$sock" registry serve --listen 127.0.0.1:0 "$@" >"$work/serve.log" 2>&1 &
  serve=$!
  for _ in $(seq 100); do addr=$(sed -n 's/^Serving images on //p' "$work/serve.log"); [ -n "$addr" ] && return; sleep 0.1; done
  cat "$work/serve.log" >&2; exit 1
}
# run VERSION: the suite, which fails with a failed test
run() {
  mkdir -p "$work/results"
  (cd "$work" && OCI_VERSION=$1 OCI_REGISTRY=$addr OCI_RESULTS_DIR=$work/results "$work/suite") >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
  grep -q 'FAIL\.*: *0$' "$work/out" || { cat "$work/out"; exit 1; }
  echo "version $1, $2: $(sed -n 's/^ *Pass\.*: *\([0-9]*\)$/\1/p' "$work/out" | head -n 1) of $(sed -n 's/^ *Total\.*: *//p' "$work/out") pass, none fails"
}
serve
OCI_TLS=disabled run 1.1 "plain"
OCI_TLS=disabled run dev "plain"
kill "$serve"; wait "$serve" 2>/dev/null || true
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/key" -out "$work/cert" -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 2>/dev/null
htpasswd -nbB someone something >"$work/users"
serve --tls-cert "$work/cert" --tls-key "$work/key" --htpasswd "$work/users"
SSL_CERT_FILE=$work/cert OCI_TLS=enabled OCI_USERNAME=someone OCI_PASSWORD=something run 1.1 "TLS and password"
