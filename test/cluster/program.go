package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/meshwatch/meshwatch/test/tree"
)

// Programs are those that test/install.sh builds.
var Programs = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
	"containerd", "containerd-shim-runc-v2", "ctr", "coredns", "helm", "pilot-discovery", "pilot-agent", "fortio",
}

// program is the path of a program that test/install.sh built.
func (c *Cluster) program(name string) string { return tree.Cached(c.root, "bin", name) }

// Missing says why a cluster cannot be built here, one error for each reason; nil when it can.
func Missing() error {
	root, err := tree.Root()
	if err != nil {
		return err
	}
	return missing(root)
}

func missing(root string) error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("build a cluster: namespaces and cgroups need root, run it as root"))
	}
	if _, err := hierarchies(); err != nil {
		errs = append(errs, err)
	}
	if !exists("/proc/sys/net/bridge") {
		errs = append(errs, errors.New("build a cluster: nodes' bridges need the kernel module br_netfilter, load it: modprobe br_netfilter"))
	}
	for _, name := range []string{"nsenter", "mount", "iptables", "ldd", runcPath, filepath.Join(cniDir, "bridge")} {
		if _, err := exec.LookPath(name); err != nil {
			errs = append(errs, fmt.Errorf("build a cluster: %s is not installed, run test/install.sh cluster", name))
		}
	}
	files := []string{tree.Cached(root, "envoy"), tree.Cached(root, "istio", "envoy_bootstrap.json")}
	for _, name := range Programs {
		files = append(files, tree.Cached(root, "bin", name))
	}
	for _, f := range files {
		if !exists(f) {
			errs = append(errs, fmt.Errorf("build a cluster: %s is not there, run test/install.sh cluster", filepath.Base(f)))
		}
	}
	return errors.Join(errs...)
}

// What the Debian packages install.
const (
	runcPath = "/usr/sbin/runc"
	cniDir   = "/usr/lib/cni"
)
