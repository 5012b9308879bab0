# coble: `make help` lists the targets. Tools are pinned here and run with `go run tool@version`.
SHELL := /bin/bash
VERSION := $(shell git describe --tags --always 2>/dev/null || echo dev)
# Nothing here speaks HTTP/2, which is half a MiB of net/http: the API is HTTP/1.1, and so are layers' downloads.
# Without inlining: what is large and hardly ever runs for long. It saves 6 % of the binary; what starts containers, unpacks
# layers, hashes and encrypts keeps it. The later of two patterns counts. Functions begin at multiples of 4 bytes, not
# of 32 or 16, for another 2 %: what is aligned inside of them, such as copying loops in assembly, stays so.
SMALL := net/... crypto/... encoding/... vendor/... regexp/... fmt log/... math/big mime/... go.etcd.io/... github.com/...
HASHES := aes/... bigmod edwards25519/... nistec/... sha256 sha512 subtle
FAST := crypto/sha256 crypto/subtle $(HASHES:%=crypto/internal/fips140/%) github.com/coble-os/... github.com/klauspost/...
SLOW := configs rt/client/... rt/api rt/engine rt/job rt/containers rt/images rt/networkdriver rt/execdriver rt/stdio rt/names rt/networks \
	rt/request rt/daemon rt/ocispec rt/oci netcfg/... layers/repo layers/catalog layers/blobinfo layers/distribution layers/retention layers/export layers/source layers/layout layers/registry/... layers/graph layers/unpacked layers/origin layers/fsck \
	layers/image layers/driver/... sandbox/plan sandbox/compiler sandbox/spec sandbox/mountopt
UNSEEN := $(SLOW:%=github.com/coble-os/coble/%)
INLINE := $(SMALL:%=-gcflags=%=-l) $(FAST:%=-gcflags=%=) $(UNSEEN:%=-gcflags=%=-l)
GOFLAGS_BUILD := -trimpath -buildvcs=false $(INLINE) -tags nethttpomithttp2 -ldflags '-s -w -funcalign=4 -buildid= -X main.version=$(VERSION)'
MAX_SIZE := 14680064 # 14 MiB
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOFUMPT := mvdan.cc/gofumpt@v0.12.0
export CGO_ENABLED := 0

PACKAGES := busybox-static nftables iptables btrfs-progs xfsprogs squashfs-tools erofs-utils dmsetup e2fsprogs secilc xz-utils zstd dpkg skopeo umoci docker-registry apache2-utils dnsmasq-base kea-dhcp6-server wireguard-tools avahi-daemon ufw
VM_PACKAGES := qemu-system-x86 qemu-system-arm qemu-user ipxe-qemu debian-archive-keyring mmdebstrap wpasupplicant hostapd
BENCH_PACKAGES := crun runc iperf3
CONFORMANCE_PACKAGES := curl openssl apache2-utils
ACCEPTANCE_PACKAGES := bats curl jq socat skopeo docker-registry python3 mmdebstrap

.PHONY: build conformance repro test test-vm demo bench lint size cross clean help deps vm-deps check acceptance mutants validation FORCE

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

build: bin/coble ## bin/coble: static, stripped, the same bytes each time
bin/coble: FORCE
	@go build $(GOFLAGS_BUILD) -o $@ ./cmd/coble

# install PACKAGES: what is there already is left alone.
define install
	@missing=; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] || { echo "installing:$$missing"; \
	  [ $$(id -u) = 0 ] || { echo "make: these Debian packages are missing, and installing them needs root: sudo apt-get install$$missing" >&2; exit 1; }; \
	  command -v apt-get >/dev/null || { echo "make: this is no Debian machine: install by hand what these packages hold:$$missing" >&2; exit 1; }; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >/tmp/coble-apt.log 2>&1 || \
	  { apt-get update -q >/tmp/coble-apt.log 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >>/tmp/coble-apt.log 2>&1; } || \
	  { tail -n 20 /tmp/coble-apt.log; echo "make: apt-get could not install$$missing" >&2; exit 1; }; }
endef

deps: ## install what the tests need from Debian's packages
	$(call install,$(PACKAGES))

vm-deps: deps ## and what virtual machines need
	$(call install,$(VM_PACKAGES))

check: ## format and vet
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "run gofmt on:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	@go vet ./...

lint: check ## and gofumpt and staticcheck
	@out=$$(go run $(GOFUMPT) -l $$(git ls-files '*.go')); test -z "$$out" || { echo "run gofumpt on:"; echo "$$out"; exit 1; }
	@go run $(STATICCHECK) ./...

test: vm-deps check size repro cross ## everything: unit tests, root's tests, virtual machines
	@echo "== tests on this machine, as $$(id -un)"
	go test -timeout 20m $$(go list ./... | grep -v /qemu-tests/)
	@echo "== tests in virtual machines"
	go test -count=1 -timeout 25m -p 2 ./qemu-tests/...

test-vm: vm-deps ## only the virtual machines
	COBLE_VM_ALL=1 go test -count=1 -timeout 40m -p 1 -v ./qemu-tests/...

demo: vm-deps build ## boot an appliance in QEMU and show its containers serving (CI=1: end by itself)
	@go run ./qemu-tests/demo -coble bin/coble $(if $(CI),-ci)

bench: vm-deps build ## measure beside crun, runc and networks made by hand
	$(call install,$(BENCH_PACKAGES))
	go test -run '^$$' -bench . -benchtime 100x ./sandbox
	go test -run '^$$' -bench . -benchtime 100x ./rt/oci
	go test -run '^$$' -bench Crowd -benchtime 60x ./rt/daemon
	go test -run '^$$' -bench Throughput -benchtime 100x ./netcfg
	go test -run '^$$' -bench Plug -benchtime 100x ./netcfg
	go test -run '^$$' -bench PortMemory -benchtime 1x ./netcfg
	go test -run 'TestFootprint|TestThousandPorts' -v ./rt/daemon
	go test -run '^$$' -bench . ./layers/repo
	@echo '== hand-off to answer, first and second boot'; go run ./qemu-tests/demo -coble bin/coble -ci -svg ''

size: build ## the binary's size by package; fails above 14 MiB
	@go run ./cmd/coble/size -binary bin/coble -max $(MAX_SIZE)

CROSS := linux/amd64 linux/arm64 linux/arm/7 linux/riscv64 linux/mipsle/softfloat
repro: build ## build again in another folder: the same bytes
	@d=$$(mktemp -d) && git ls-files -z | xargs -0 cp --parents -t $$d 2>/dev/null; \
	(cd $$d && go build $(GOFLAGS_BUILD) -o coble ./cmd/coble) && cmp bin/coble $$d/coble && echo "two builds are byte-equal"; s=$$?; rm -rf $$d; exit $$s

cross: ## build for every architecture
	@for t in $(CROSS); do IFS=/ read -r os arch sub <<<"$$t"; \
	  GOOS=$$os GOARCH=$$arch GOARM=$$([ $$arch = arm ] && echo $$sub) GOMIPS=$$([ $$arch = mipsle ] && echo $$sub) \
	  go build $(GOFLAGS_BUILD) -o bin/coble-$$arch ./cmd/coble || exit 1; ls -l bin/coble-$$arch | awk '{printf "%s %.2f MiB\n", $$9, $$5/1048576}'; done

# The black-box suite is not part of the project: SUITE is its folder, IMAGES the folder that its make-images.sh filled.
acceptance: build ## run the Docker acceptance suite: make acceptance SUITE=dir [IMAGES=dir] [FILES="01-system.bats"]
	$(call install,$(ACCEPTANCE_PACKAGES))
	@./qemu-tests/acceptance.sh bin/coble "$(SUITE)" "$(IMAGES)" $(FILES)

mutants: vm-deps ## take out one defence after the other: each must turn a test red (ONLY=regexp)
	@go run ./qemu-tests/mutants -only '$(ONLY)'

# Nor is the runtime validation suite: SUITE is a checkout of opencontainers/runtime-tools.
validation: build ## run the runtime validation suite: make validation SUITE=dir [TESTS="create state"]
	@./qemu-tests/validation/run.sh bin/coble "$(SUITE)" $(TESTS)

# Nor is the registries' conformance suite: SUITE is the folder conformance of opencontainers/distribution-spec.
conformance: build ## run the registries' conformance suite: make conformance SUITE=dir
	$(call install,$(CONFORMANCE_PACKAGES))
	@./qemu-tests/conformance.sh bin/coble "$(SUITE)"

clean: ## remove what was built
	rm -rf bin out
