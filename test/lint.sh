#!/bin/bash
# lint.sh: everything about the sources that a machine can say without running them. Runs all checks, then fails if one did.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

# check NAME COMMAND...: says how long it took, and shows the output only of what fails.
check() {
  local name=$1 start=$SECONDS out
  shift
  if out=$("$@" 2>&1); then
    echo "lint: $name: ok, $((SECONDS - start)) s"
  else
    printf '%s\n' "$out" "lint: $name: FAILED"
    failed=1
  fi
}

formatted() {
  local bad
  bad=$(git ls-files -co --exclude-standard -- '*.go' | while read -r f; do [ ! -e "$f" ] || echo "$f"; done | xargs -r gofmt -l) || return 1
  [ -z "$bad" ] || { echo "$bad"; echo "run: gofmt -w on these"; return 1; }
}

shell_syntax() {
  local f bad=0
  for f in .ci/run $(git ls-files -co --exclude-standard -- '*.sh'); do bash -n "$f" || bad=1; done
  return $bad
}

# generated: rebuilds the BPF objects in a copy and compares them byte by byte.
generated() {
  local tmp f bad=0
  for f in clang-19 llvm-strip-19; do
    command -v $f >/dev/null || { echo "$f is missing, so nobody knows whether the BPF objects fit their sources: run test/install.sh test"; return 1; }
  done
  tmp=$(mktemp -d) || return 1
  trap 'rm -rf "$tmp"' RETURN
  cp -r go.mod go.sum bpf "$tmp/" && rm -f "$tmp"/bpf/*_bpfel.* || return 1
  (cd "$tmp" && GOFLAGS=-mod=mod GOWORK=off go generate ./bpf) || return 1
  for f in bpf/*_bpfel.*; do
    cmp "$f" "$tmp/$f" || bad=1
  done
  for f in "$tmp"/bpf/*_bpfel.*; do
    [ -e "bpf/${f##*/}" ] || { echo "bpf/${f##*/} is not there"; bad=1; }
  done
  [ $bad = 0 ] || echo "the BPF objects do not fit their sources: run make generate (here: $(clang-19 --version | head -1))"
  return $bad
}

check gofmt formatted
check "shell syntax" shell_syntax
check "go vet" go vet ./...
check staticcheck go tool staticcheck ./...
check "import directions" go run -buildvcs=false ./test/cmd/imports
check "BPF objects" generated
exit $failed
