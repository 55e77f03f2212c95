#!/bin/bash
# test.sh [all|unit|cluster]: runs the tests and closes with their number and with every skipped test and its reason.
#   all      everything (default) but the cluster's. As root it installs what is missing, and a privileged test that cannot run
#            is a failure
#   unit     the packages that leave the machine as it is, with nothing installed
#   cluster  those that build a Kubernetes, for which it installs what is missing
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
case $what in all | unit | cluster) ;; *) echo "test: $what is not one of all, unit, cluster" >&2; exit 2 ;; esac

export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false" # a clone of another user's, or none, is no reason to fail
race=
if [ "$what" = all ]; then
  if [ "$(id -u)" = 0 ]; then
    test/install.sh test
    export MESHWATCH_TEST_PRIVILEGED=1
  else
    echo "test: not root: nothing is installed, privileged and lab tests are skipped and listed"
  fi
  if command -v gcc >/dev/null; then race=-race; fi
fi

if [ "$what" = cluster ]; then
  test/install.sh cluster
  export MESHWATCH_TEST_CLUSTER=1
fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/testsum" ./test/cmd/testsum

if [ "$what" = cluster ]; then
  { go test -json -count=1 -timeout 45m ./test/cluster/... || true; } | "$bin/testsum"
  exit
fi

# One package at a time where tests share the machine: namespaces, the kernel's hooks, the lab's load. They have deadlines
# too, which the race detector would cost them: it looks at the others.
shared=(./bpf/... ./netpath/... ./cmd/... ./test/...)
mapfile -t rest < <(go list ./... | grep -vxFf <(go list "${shared[@]}"))
{
  go test -json -timeout 15m $race "${rest[@]}" || true
  if [ "$what" = all ]; then go test -json -timeout 45m -p 1 "${shared[@]}" || true; fi
} | "$bin/testsum"
