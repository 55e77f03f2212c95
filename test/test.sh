#!/bin/bash
# test.sh [all|unit]: runs the tests and closes with their number and with every skipped test and its reason.
#   all   everything (default). As root it installs what is missing, and a privileged test that cannot run is a failure
#   unit  everything but the recorder and the lab, with nothing installed
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
case $what in all | unit) ;; *) echo "test: $what is not one of all, unit" >&2; exit 2 ;; esac

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

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -buildvcs=false -o "$bin/testsum" ./test/cmd/testsum

# One package at a time where tests share the machine: the kernel's hooks, the lab's load. The race detector costs a lab test
# its timing, so it looks at the others.
shared=(./bpf/... ./test/...)
mapfile -t rest < <(go list ./... | grep -vxFf <(go list "${shared[@]}"))
{
  go test -json -timeout 15m $race "${rest[@]}" || true
  if [ "$what" = all ]; then go test -json -timeout 45m -p 1 "${shared[@]}" || true; fi
} | "$bin/testsum"
