# meshwatch. `make help` lists what there is; README.md says what it is for.
SHELL := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOBUILD := go build -buildvcs=false -trimpath
# The demo: FAULT=app|sidecar|loss|iptables is what it makes slow, KEEP=1 leaves the mesh up, SIDECAR=envoy|haproxy (default
# Envoy where it can be had).
FAULT ?= app
KEEP ?=
SIDECAR ?=

.DEFAULT_GOAL := build
.PHONY: build generate lint test test-unit demo lab-down accuracy bench clean help

build: ## bin/meshwatch
	$(GOBUILD) -ldflags '-X main.version=$(VERSION)' -o bin/meshwatch ./cmd/meshwatch

generate: ## the committed BPF objects, from their sources (clang-19)
	go generate ./bpf

lint: ## gofmt, go vet, staticcheck, import directions, BPF objects current
	test/lint.sh

test: ## everything; installs what is missing. Without root: what can run, and a list of what could not
	test/test.sh

test-unit: ## the packages that leave the machine as it is, with nothing installed, in seconds
	test/test.sh unit

demo: ## a mesh, real requests, where their time goes, and what changes when one part is slow: FAULT=… KEEP=1
	test/install.sh demo
	$(MAKE) --no-print-directory build
	$(GOBUILD) -o bin/demo ./test/demo
	@bin/demo -fault=$(FAULT) -sidecar=$(SIDECAR) $(if $(filter-out 0 no,$(KEEP)),-keep)

lab-down: ## removes every lab that is still there, also after a crash, with its load and agent
	go run -buildvcs=false ./test/lab/cmd/lab down

accuracy: build ## journeys with every hop and wrong joins, against the truth; writes test/results/accuracy.json
	test/install.sh run
	go run -buildvcs=false ./test/accuracy

bench: build ## what recording costs; writes test/results/bench.json
	test/install.sh run
	go run -buildvcs=false ./test/bench

clean: ## what was built here; test/.cache stays
	rm -rf bin test/results

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile
