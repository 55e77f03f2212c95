package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"text/template"

	"github.com/meshwatch/meshwatch/test/await"
)

// configuration are the templates of the configuration files of a node's processes.
//
//go:embed conf
var configuration embed.FS

// nodeConf is what the templates of a node's configuration may ask for.
type nodeConf struct {
	Name, PodNet, Runtime, DNS, PodCIDR, CNI, Pause string
	V2                                              bool
	Dir, PKI, Cgroup                                string
}

func (c *Cluster) nodeConf(node int) nodeConf {
	n := nodeConf{
		Name: nodeName(node), PodNet: podNet(node).String(), Runtime: runcPath, DNS: dnsService, PodCIDR: podCIDR, CNI: cniDir,
		Pause: image("pause"), V2: c.v2(node), Dir: path("conf", nodeName(node)), PKI: path("pki"), Cgroup: "/" + cgroupRoot + "/" + nodeName(node),
	}
	if n.V2 {
		n.Runtime = c.program("runc-v2")
	}
	return n
}

// configure writes a node's configuration files.
func (c *Cluster) configure(node int) error {
	conf := c.nodeConf(node)
	if err := os.MkdirAll(conf.Dir, 0o755); err != nil {
		return fmt.Errorf("configure node %d: %w", node, err)
	}
	all, err := template.ParseFS(configuration, "conf/*")
	if err != nil {
		return fmt.Errorf("configure node %d: %w", node, err)
	}
	for _, t := range all.Templates() {
		var text bytes.Buffer
		if err := t.Execute(&text, conf); err != nil {
			return fmt.Errorf("configure node %d: %w", node, err)
		}
		if err := os.WriteFile(filepath.Join(conf.Dir, t.Name()), text.Bytes(), 0o644); err != nil {
			return fmt.Errorf("configure node %d: %w", node, err)
		}
	}
	return nil
}

// startContainerd starts a node's container runtime and gives it all images.
func (c *Cluster) startContainerd(ctx context.Context, node int) error {
	ctx, cancel := context.WithTimeout(ctx, imageWithin)
	defer cancel()
	if err := c.configure(node); err != nil {
		return err
	}
	conf := path("conf", nodeName(node))
	if _, err := c.run(ctx, node, networkAndMounts, nil, "install", "-D", "-m", "644", filepath.Join(conf, "cni.conflist"), "/etc/cni/net.d/10-lab.conflist"); err != nil {
		return fmt.Errorf("configure node %d: %w", node, err)
	}
	if err := c.serve(node, "containerd", c.program("containerd"), "--config="+filepath.Join(conf, "containerd.toml")); err != nil {
		return err
	}
	var last error
	err := await.Until(ctx, func() bool {
		_, last = c.run(ctx, node, networkAndMounts, nil, c.program("ctr"), "version")
		return last == nil
	})
	if err != nil {
		return fmt.Errorf("wait for containerd of node %d: %w", node, errors.Join(err, last))
	}
	for _, name := range images {
		if err := c.load(ctx, node, c.imageFile(name)); err != nil {
			return err
		}
	}
	return nil
}

// load imports an image into a node.
func (c *Cluster) load(ctx context.Context, node int, tar string) error {
	_, err := c.run(ctx, node, networkAndMounts, nil, c.program("ctr"), "--namespace=k8s.io", "images", "import",
		"--label=io.cri-containerd.image=managed", tar)
	if err != nil {
		return fmt.Errorf("import an image into node %d: %w", node, err)
	}
	return nil
}

// Load imports an image, a tar as WriteImage makes it, into all nodes. Pods that use it must have imagePullPolicy
// IfNotPresent: there is no registry. Those that run go on with the old one.
func (c *Cluster) Load(ctx context.Context, tar string) error {
	for n := 1; n <= c.Options.Nodes; n++ {
		if err := c.load(ctx, n, tar); err != nil {
			return err
		}
	}
	return nil
}

// startNode starts a node's kubelet and kube-proxy, and waits until the node is ready.
func (c *Cluster) startNode(ctx context.Context, node int) error {
	conf, name := path("conf", nodeName(node)), nodeName(node)
	err := c.serve(node, "kubelet", c.program("kubelet"), "--config="+filepath.Join(conf, "kubelet.yaml"), "--kubeconfig="+kubeconfig(name),
		"--hostname-override="+name, "--node-ip="+nodeAddr(node).String(),
		"--node-labels=topology.kubernetes.io/region=lab,topology.kubernetes.io/zone=z"+name[1:])
	if err != nil {
		return err
	}
	if err := c.serve(node, "kube-proxy", c.program("kube-proxy"), "--config="+filepath.Join(conf, "kube-proxy.yaml")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, partWithin)
	defer cancel()
	if _, err := c.Kubectl(ctx, nil, "wait", "--for=create", "node/"+name, "--timeout=2m"); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, nil, "wait", "--for=condition=Ready", "node/"+name, "--timeout=2m")
	return err
}

// apiClient is a client of the API server as the administrator.
func (c *Cluster) apiClient() (*http.Client, error) {
	conf, err := clientTLS("admin")
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DialContext: c.dialNode(1)}}, nil
}
