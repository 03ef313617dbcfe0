# Cloister. `make run` shows it; `make test` proves it; `make help` lists the rest.
SHELL := /bin/bash
GO ?= go
export CGO_ENABLED ?= 1
# Debian keeps some of the tools that tests call where users who are not root do not look.
export PATH := $(PATH):/usr/sbin:/sbin

PROGRAMS := cloister cloister-attest cloister-keys cloister-paravisor cloister-softchip cloister-forward
# Prints what was skipped, and why, at the end.
TEST := $(GO) tool -modfile=tools/go.mod gotestsum --format pkgname --format-hide-empty-pkg --
STAMP := -trimpath -ldflags '-s -w'

.PHONY: help setup build run stop test lint unit fuzz crash boot bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: ## install the Debian packages that are missing
	@sh scripts/setup.sh

build: ## build the programs into bin/
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build $(STAMP) -o bin/ ./cmd/cloister-guest
	@$(GO) build -trimpath -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

run: ## start the platform, create the confidential VM "hello" and tell what happens
	@sh scripts/setup.sh build run
	@$(MAKE) --no-print-directory build
	@bin/cloister quickstart

stop: ## end the platform and its VMs
	@if [ -x bin/cloister ]; then bin/cloister down; else echo "nothing was built, so nothing runs"; fi

test: setup lint unit fuzz crash boot ## everything that continuous integration runs

lint: ## formatting, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags boot,failpoints,invm ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

unit: ## unit and integration tests, with the race detector
	$(TEST) -race -timeout 15m ./...

fuzz: ## each fuzz target on some inputs
	@bash scripts/fuzz.sh

crash: ## kill each service at each durable write, and start it again
	$(TEST) -tags failpoints -count 1 -timeout 15m -run 'CP09|Killed|CrashAt' ./attest/issuer ./attest/policystore ./compute ./host/disk ./keys ./paravisor

boot: build ## whole virtual machines, one at a time
	$(TEST) -tags boot -count 1 -timeout 10m -p 1 -run 'TestFirmwareBoots|TestBootSmoke' ./paravisor ./image
	$(GO) test -tags boot -count 1 -timeout 60m -v -p 1 ./integration/...

bench: build ## measure; prints a table and writes bench.json
	$(GO) run ./integration/bench -o bench.json

clean: ## remove what was built
	rm -rf bin bench.json
