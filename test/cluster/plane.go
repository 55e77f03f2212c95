package cluster

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
)

// Bounds of waiting, on a machine that does much else; what they bound takes a tenth.
const (
	apiWithin   = 90 * time.Second
	partWithin  = 120 * time.Second
	imageWithin = 180 * time.Second
)

// startControlPlane starts etcd, the API server, the controller manager and the scheduler in the first node, and waits for
// the API.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.serve(1, "etcd", c.etcdLine()...); err != nil {
		return err
	}
	if err := c.serve(1, "apiserver", c.apiserverLine()...); err != nil {
		return err
	}
	if err := c.waitAPI(ctx); err != nil {
		return err
	}
	c.phase("API server")
	for name, line := range map[string][]string{
		"controller-manager": append([]string{c.program("kube-controller-manager"),
			"--use-service-account-credentials=true", "--service-account-private-key-file=" + path("pki", "tokens.key"),
			"--root-ca-file=" + path("pki", "ca.crt"), "--cluster-signing-cert-file=" + path("pki", "ca.crt"),
			"--cluster-signing-key-file=" + path("pki", "ca.key"), "--node-monitor-grace-period=50s",
			"--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins"}, as("controller-manager")...),
		"scheduler": append([]string{c.program("kube-scheduler")}, as("scheduler")...),
	} {
		if err := c.serve(1, name, line...); err != nil {
			return err
		}
	}
	return nil
}

// as are the flags by which a part of the control plane calls the API as its identity, alone and on loopback.
func as(identity string) []string {
	k := kubeconfig(identity)
	return []string{"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir=" + path("conf", identity)}
}

// etcdLine: what is written need not survive the machine, so nothing waits for its disk.
func (c *Cluster) etcdLine() []string {
	const clients, peers = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	return []string{c.program("etcd"), "--data-dir=" + path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=" + clients, "--advertise-client-urls=" + clients,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers}
}

// apiserverLine: authorization and admission are as in a cluster that was set up with care.
func (c *Cluster) apiserverLine() []string {
	pki := func(name string) string { return path("pki", name) }
	return []string{c.program("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--advertise-address=" + nodeAddr(1).String(),
		"--secure-port=" + apiPort, "--cert-dir=" + path("conf", "apiserver"),
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"), "--client-ca-file=" + pki("ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"), "--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=" + tokenIssuer, "--service-account-key-file=" + pki("tokens.pub"),
		"--service-account-signing-key-file=" + pki("tokens.key"), "--service-cluster-ip-range=" + serviceCIDR,
		"--enable-aggregator-routing=true", "--enable-priority-and-fairness=false",
		"--requestheader-client-ca-file=" + pki("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy.crt"), "--proxy-client-key-file=" + pki("front-proxy.key"),
	}
}

// waitAPI waits until the API server says that it is ready.
func (c *Cluster) waitAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiWithin)
	defer cancel()
	client, err := c.apiClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	var last error
	err = await.Until(ctx, func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+nodeAddr(1).String()+":"+apiPort+"/readyz", nil)
		if err != nil {
			last = err
			return false
		}
		resp, err := client.Do(req)
		if err != nil {
			last = err
			return false
		}
		last = fmt.Errorf("it answers %s", resp.Status)
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	if err != nil {
		return fmt.Errorf("wait for the API server: %w: %w", err, last)
	}
	return nil
}
