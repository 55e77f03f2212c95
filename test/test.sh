#!/bin/bash
# test.sh [all|unit]: runs the tests and closes with their number and with every skipped test and its reason.
#   all   everything (default). As root it installs what is missing, and a privileged test that cannot run is a failure
#   unit  without privileges, also when started by root, and with nothing installed
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
case $what in all | unit) ;; *) echo "test: $what is not one of all, unit" >&2; exit 2 ;; esac

race=
if [ "$what" = unit ]; then
  export MESHWATCH_TEST_UNIT=1
elif [ "$(id -u)" = 0 ]; then
  test/install.sh test
  export MESHWATCH_TEST_PRIVILEGED=1
else
  echo "test: not root: privileged and lab tests are skipped, nothing is installed"
fi
if command -v gcc >/dev/null && [ "$what" = all ]; then race=-race; fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -buildvcs=false -o "$bin/testsum" ./test/cmd/testsum

# One package at a time where tests share the machine: the kernel's hooks, the lab's load. The race detector costs a lab test
# its timing, so it looks at the others.
mapfile -t shared < <(go list ./bpf/... ./test/...)
mapfile -t rest < <(go list ./... | grep -vxFf <(printf '%s\n' "${shared[@]}"))
{
  go test -json -timeout 15m $race "${rest[@]}" || true
  go test -json -timeout 30m -p 1 "${shared[@]}" || true
} | "$bin/testsum"
