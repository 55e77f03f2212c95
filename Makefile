# meshwatch. `make help` lists what there is; README.md says what it is for.
SHELL := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOBUILD := go build -buildvcs=false -trimpath
# The demo: FAULT=app|sidecar|loss|iptables is what it makes slow, KEEP=1 leaves the mesh up, SIDECAR=envoy|haproxy (default
# Envoy where it can be had).
FAULT ?= app
KEEP ?=
SIDECAR ?=
# The measurement: BENCH are flags such as --only haproxy,bulk, see go run ./test/bench --help.
# Accuracy: SCENARIO=cleartext|mtls|mtls-h2|grpc|haproxy-tls|oddities|oddities-mtls|no-ids…|all is what the mesh speaks (no-ids: apps hand on no ids), cluster a Kubernetes with Istio; ACCURACY
# are flags such as --loads churn,mixed.
SCENARIO ?=
ACCURACY ?=
# The cluster: NODES=1..3; OPTIONS are flags such as --tproxy, see go run ./test/cluster/cmd/cluster up --help.
NODES ?= 1
OPTIONS ?=
BENCH ?=

.DEFAULT_GOAL := build
.PHONY: build generate lint test test-unit demo lab-down cluster cluster-down test-cluster accuracy bench bench-scale bench-topology clean help

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

cluster: ## a Kubernetes with Istio, for real, in namespaces of this machine: NODES=1..3 OPTIONS=… (test/README.md)
	test/install.sh cluster
	go run -buildvcs=false ./test/cluster/cmd/cluster up --nodes=$(NODES) $(OPTIONS)

cluster-down: ## removes it, also after a crash
	go run -buildvcs=false ./test/cluster/cmd/cluster down

test-cluster: ## shows that the cluster does what tests rely on, with every option; four minutes once its parts are built
	test/test.sh cluster

accuracy: build ## journeys with every hop and wrong joins, against the truth; in SCENARIO=cluster who and which route is behind each leg; writes test/results/accuracy.json
	test/install.sh $(if $(findstring cluster,$(SCENARIO)),cluster,run)
	go run -buildvcs=false ./test/accuracy $(if $(SCENARIO),--scenario $(SCENARIO)) $(ACCURACY)

bench: build ## what recording costs, some 30 minutes; writes test/results/bench.json: BENCH=…
	test/install.sh run
	go run -buildvcs=false ./test/bench $(BENCH)

bench-scale: build ## the same from 1 to 250 namespaces, from 10 to 10,000 connections; writes test/results/bench-scale.json
	test/install.sh run
	go run -buildvcs=false ./test/bench --scale $(BENCH)

bench-topology: ## what following Kubernetes and istiod costs with 100, 1,000 and 10,000 workloads; two minutes
	go test -p 1 ./topology/kube ./topology/xds -run '^$$' -bench Scale -benchtime 1x

clean: ## what was built here; test/.cache stays
	rm -rf bin test/results

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile
