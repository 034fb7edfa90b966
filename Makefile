# Everything that a fresh Debian 12 with Swift lacks is installed by the targets that need it.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

SUDO     := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT_BUILD := liburing-dev libmicrohttpd-dev libgnutls28-dev libzstd-dev zlib1g-dev libsqlite3-dev
APT_SAMPLE := qemu-utils e2fsprogs curl jq
APT_TEST := $(APT_SAMPLE) qemu-system-common nbdkit libnbd-bin python3-libnbd fio python3 python3-venv openssl systemd tzdata
APT_BENCH := $(APT_SAMPLE) python3 qemu-system-common libnbd-bin time nbdkit fio gcc libc6-dev

SWIFT_FLAGS := --explicit-target-dependency-import-check error
BINARY   := .build/release/cobweb
VENV     := .build-venv
# The newest QEMU and libnbd, which the tests ask beside the installed ones; `make clean` has them fetched anew.
NEWEST   := .build-newest
export NEWEST_TOOLS := $(abspath $(NEWEST)/bin)
LOCAL    := local
TEST_EFFORT ?= 1
export TEST_EFFORT

# $(call apt,PACKAGES): installs those that are missing; quiet when none is.
apt = missing=(); for p in $(1); do dpkg-query -W -f '$${Status}' "$$p" 2>/dev/null | grep -q ' installed' || missing+=("$$p"); done; \
      if [ $${\#missing[@]} -gt 0 ]; then echo "Installing $${missing[*]}"; \
        $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; fi

# What is worth reading of a test run: not the tests that begin and pass.
ESSENCE := awk '/Test run with/ || !/^(◇|✔|↳)/'

.PHONY: help build run test test-swift test-end-to-end test-long fuzz demo bench bench-full bench-incremental bench-chains bench-latency bench-nbd bench-catalog bench-loop lint format clean
.PHONY: install-build install-sample install-test install-bench newest-tools

help:
	@echo 'make run    build and serve with the example configuration and a sample image'
	@echo 'make test   build and run every test'
	@echo 'make demo   a backup story told with curl'
	@echo 'make bench  compare speed with the peers'
	@echo 'make fuzz   damaged qcow2 images and NBD conversations under AddressSanitizer, each for FUZZ_SECONDS'
	@echo 'make lint   format, imports'

install-build:  ; @$(call apt,$(APT_BUILD))
install-sample: ; @$(call apt,$(APT_SAMPLE))
install-test:   ; @$(call apt,$(APT_TEST))
install-bench:  ; @$(call apt,$(APT_BENCH))

build: install-build
	swift build -c release --product cobweb $(SWIFT_FLAGS)

run: build $(LOCAL)/images/sample.qcow2
	@mkdir -p $(LOCAL)/{state,backup,run}
	$(BINARY) serve --config examples/cobweb.yaml

# A disk with real content: an ext4 file system filled from this system's own files, as qcow2.
$(LOCAL)/images/sample.qcow2: | install-sample
	@mkdir -p $(@D)
	examples/make-sample-image $@

test: lint test-swift test-end-to-end

test-swift: install-build install-test newest-tools
	swift build --build-tests $(SWIFT_FLAGS)
	@# One room at a time: within a room tests run side by side, and many start programs or block threads.
	@set -e; for room in $(notdir $(wildcard Tests/*Tests)); do \
	  echo "== $$room"; swift test --skip-build --disable-xctest --filter "^$$room\." 2>&1 | $(ESSENCE); done

test-end-to-end: build install-test newest-tools $(VENV)/ready
	COBWEB=$(abspath $(BINARY)) $(VENV)/bin/pytest -q Tests/EndToEnd

$(VENV)/ready: Tests/EndToEnd/requirements.txt | install-test
	/usr/bin/python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

newest-tools: $(NEWEST)/ready

$(NEWEST)/ready: Tests/newest-tools
	Tests/newest-tools $(NEWEST)
	@touch $@

# Longer seeded stories, and the qcow2 room under AddressSanitizer. LeakSanitizer would find the runtime's own.
ASAN := ASAN_OPTIONS=detect_leaks=0 swift test --disable-xctest --sanitize=address --scratch-path .build-asan
FUZZ_SECONDS ?= 600

test-long: export TEST_EFFORT = 20
test-long: test-swift
	$(ASAN) --filter '^Qcow2Tests\.' 2>&1 | $(ESSENCE)

# Mutated qcow2 images and NBD conversations under AddressSanitizer.
fuzz: install-build install-test newest-tools
	@set -e; for room in Qcow2Tests NBDTests; do \
	  FUZZ_SECONDS=$(FUZZ_SECONDS) $(ASAN) --filter "^$$room\.FuzzTests" 2>&1 | $(ESSENCE); done

demo: build install-sample
	COBWEB=$(abspath $(BINARY)) examples/demo

bench: bench-full bench-incremental bench-chains bench-latency bench-nbd bench-loop

bench-full: build install-bench
	COBWEB=$(abspath $(BINARY)) /usr/bin/python3 Tests/Benchmark/full.py

bench-incremental: build install-bench
	COBWEB=$(abspath $(BINARY)) /usr/bin/python3 Tests/Benchmark/incremental.py

bench-chains: build install-bench $(LOCAL)/bench/nbd-load
	COBWEB=$(abspath $(BINARY)) /usr/bin/python3 Tests/Benchmark/chains.py

bench-latency: build install-bench
	COBWEB=$(abspath $(BINARY)) /usr/bin/python3 Tests/Benchmark/latency.py

bench-nbd: build install-bench $(LOCAL)/bench/nbd-load
	COBWEB=$(abspath $(BINARY)) /usr/bin/python3 Tests/Benchmark/nbd.py

# What a filter costs, in nanoseconds a request.
bench-loop: install-build
	swift build -c release --product filter-cost $(SWIFT_FLAGS)
	.build/release/filter-cost

# The API over a catalog of a million backups; not part of `make bench`, which compares with the peers.
bench-catalog: build install-bench
	COBWEB=$(abspath $(BINARY)) /usr/bin/python3 Tests/Benchmark/catalog.py

$(LOCAL)/bench/nbd-load: Tests/Benchmark/nbd-load.c | install-bench
	@mkdir -p $(@D)
	gcc -O2 -Wall -Wextra -Werror -pthread -o $@ $<

lint: install-test
	swift format lint --strict --recursive Package.swift Sources Tests
	/usr/bin/python3 Tests/Lint/imports.py

format:
	swift format --in-place --recursive Package.swift Sources Tests

clean:
	rm -rf .build .build-*
