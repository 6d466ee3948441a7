# Atoll. `make` lists what can be done; every target can be run on its own and
# does what it depends on first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Where Go usually is when sudo hid it from PATH.
GO ?= $(shell command -v go || { [ -x /usr/local/go/bin/go ] && echo /usr/local/go/bin/go; } || echo go)

# Everything that takes long and may be kept is outside of the checkout.
ATOLL_CACHE ?= /var/cache/atoll
ATOLL_IMAGE_DIR ?= $(ATOLL_CACHE)/images
IMAGE := builtin:debian-13
IMAGE_FILE := $(ATOLL_IMAGE_DIR)/debian-13.erofs

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 10s
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

JS := test/e2e/js
PY := test/e2e/python
VENV = $(ATOLL_CACHE)/test-venv-$(shell sha256sum $(PY)/requirements.txt | cut -c1-12)
BENCH := test/bench
BENCH_VENV = $(ATOLL_CACHE)/bench-venv-$(shell sha256sum $(BENCH)/requirements.txt | cut -c1-12)

# One line per runner of the tests: what passed and what failed.
RESULTS := $(CURDIR)/bin/results

export ATOLL_IMAGE_DIR GO RESULTS
export ATOLL_TEST_BIN := $(CURDIR)/bin
export ATOLL_TEST_IMAGE := $(IMAGE_FILE)
export ATOLL_TEST_JS := $(CURDIR)/$(JS)

##@ Use

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: root deps build image sdk-js ## from nothing to code that runs in a sandbox, driven by the official SDK
	@build/demo.sh

.PHONY: build
build: go bin/runsc ## the programs, in bin/: atoll, atoll-shim, atoll-agent, runsc
	@echo "== build atoll $(VERSION)"
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/atoll ./cmd/atoll-shim ./cmd/atoll-agent

# With cgo, runsc builds but fails when it starts a sandbox.
bin/runsc: go.mod | go
	@echo "== build runsc from gVisor's module (the first time takes minutes)"
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o $@ gvisor.dev/gvisor/runsc
	@touch $@

.PHONY: image
image: root deps build ## the image builtin:debian-13, in $ATOLL_IMAGE_DIR, unless it is there
	@bin/atoll image build $(IMAGE) --image-dir "$(ATOLL_IMAGE_DIR)"

.PHONY: deps
deps: ## install what is missing on this host, from Debian's packages
	@build/deps.sh

##@ Check

.PHONY: test
test: test-unit test-e2e ## all tests; needs root
	@cat $(RESULTS)/unit $(RESULTS)/e2e-*

.PHONY: test-unit
test-unit: go ## tests without root, network or machines
	@echo "== unit tests"
	@build/gotest.sh unit ./...

.PHONY: test-e2e
test-e2e: root deps build image sdk-js sdk-python ## real server, real gVisor, official SDKs; needs root
	@build/e2e.sh "$(VENV)/bin/python"

.PHONY: race
race: go ## unit tests with the race detector
	@CGO_ENABLED=1 $(GO) test -race ./...

.PHONY: bench
bench: root deps build image sdk-js bench-venv ## the figures, measured in one run, as one table; needs root
	@ATOLL_BENCH_MITMDUMP="$(BENCH_VENV)/bin/mitmdump" $(GO) run -tags e2e ./$(BENCH)

.PHONY: fuzz
fuzz: go ## every fuzz target for $FUZZTIME (10s)
	@build/fuzz.sh "$(FUZZTIME)"

.PHONY: lint
lint: go ## format, vet, import rules, and golangci-lint where it is installed
	@echo "== gofmt"
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
		[ -z "$$unformatted" ] || { echo "not formatted; run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	@echo "== go vet"
	@$(GO) vet ./...
	@$(GO) vet -tags e2e ./test/...
	@echo "== import rules"
	@$(GO) test -count 1 ./internal/archtest
	@if command -v golangci-lint >/dev/null; then echo "== golangci-lint"; golangci-lint run; \
		else echo "golangci-lint is not installed: make lint-full builds and runs it"; fi

.PHONY: lint-full
lint-full: lint ## lint, with the pinned golangci-lint built from source
	@$(GO) run $(GOLANGCI_LINT) run

.PHONY: clean
clean: ## remove what was built in the checkout; images in $ATOLL_IMAGE_DIR stay
	@rm -rf bin $(JS)/node_modules

# Not for people.

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo "this makes images, namespaces and control groups: run it as root (sudo make $(MAKECMDGOALS))" >&2; exit 1; }

.PHONY: go
go:
	@command -v "$(GO)" >/dev/null || { echo "Go is missing: install the version that go.mod names, or a later one, and put it into PATH" >&2; exit 1; }

.PHONY: sdk-js
sdk-js: deps $(JS)/node_modules/.package-lock.json

$(JS)/node_modules/.package-lock.json: $(JS)/package.json $(JS)/package-lock.json
	@echo "== install the JavaScript SDK"
	@cd $(JS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# One environment per content of the pins, so that nothing stale stays in it.
.PHONY: sdk-python
sdk-python: deps
	@[ -e "$(VENV)/ready" ] || { echo "== install the Python SDK"; build/venv.sh "$(VENV)" $(PY)/requirements.txt; }

.PHONY: bench-venv
bench-venv: deps
	@[ -e "$(BENCH_VENV)/ready" ] || { echo "== install what the figures are compared with"; build/venv.sh "$(BENCH_VENV)" $(BENCH)/requirements.txt; }
