package cluster

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/tree"
)

// manifests are what is applied to the cluster, and the values of Istio's charts.
//
//go:embed manifests
var manifests embed.FS

// manifest executes one of them.
func (c *Cluster) manifest(name string, values any) (string, error) {
	t, err := template.ParseFS(manifests, "manifests/"+name)
	if err != nil {
		return "", fmt.Errorf("read manifest %s: %w", name, err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, values); err != nil {
		return "", fmt.Errorf("fill in manifest %s: %w", name, err)
	}
	return text.String(), nil
}

// helm installs a chart of Istio's with the values of a manifest, and, if wait is true, waits for what it starts.
func (c *Cluster) helm(ctx context.Context, release, namespace, chart, values string, wait bool) error {
	argv := []string{c.program("helm"), "upgrade", "--install", release, tree.Cached(c.root, "istio", "charts", chart), "--namespace=" + namespace, "--create-namespace"}
	if values != "" {
		text, err := c.manifest(values, c.Options)
		if err != nil {
			return err
		}
		file := path("conf", values)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return fmt.Errorf("install chart %s: %w", chart, err)
		}
		argv = append(argv, "--values="+file)
	}
	if wait {
		argv = append(argv, "--wait", "--timeout="+partWithin.String())
	}
	if err := c.runTo(ctx, 1, network, nil, io.Discard, argv...); err != nil {
		return fmt.Errorf("install chart %s: %w", chart, err)
	}
	return nil
}

// installBase installs what needs no node that runs: namespaces, the cluster's DNS, Istio's types.
func (c *Cluster) installBase(ctx context.Context) error {
	var text strings.Builder
	for _, name := range []string{"namespaces.yaml", "coredns.yaml"} {
		m, err := c.manifest(name, nil)
		if err != nil {
			return err
		}
		text.WriteString(m)
	}
	if err := c.Apply(ctx, text.String()); err != nil {
		return err
	}
	return c.helm(ctx, "istio-base", "istio-system", "base", "", false)
}

// installIstio installs istiod and the gateway, whose proxy is injected and so comes after istiod.
func (c *Cluster) installIstio(ctx context.Context) error {
	if err := c.helm(ctx, "istiod", "istio-system", "istio-control/istio-discovery", "istiod.yaml", true); err != nil {
		return err
	}
	c.phase("istiod")
	for _, ns := range []string{Namespace, GatewayNamespace} {
		if err := c.WaitFor(ctx, ns, "create", partWithin, "configmap/istio-ca-root-cert"); err != nil {
			return err
		}
	}
	if c.Options.HBONE {
		filter, err := c.manifest("hbone.yaml", nil)
		if err != nil {
			return err
		}
		if err := c.Apply(ctx, filter); err != nil {
			return err
		}
	}
	return c.helm(ctx, Gateway, GatewayNamespace, "gateway", "gateway.yaml", false)
}

// Names of the lab's own parts in the cluster.
const (
	Namespace        = "demo" // of the apps
	Gateway          = "istio-ingressgateway"
	GatewayNamespace = "istio-ingress"
	gatewayNodePort  = "30080"
)

// version is one of backend's, and the node where it runs.
type version struct{ Name, Node string }

// installApps installs the lab's apps and waits until they and the gateway answer.
func (c *Cluster) installApps(ctx context.Context) error {
	values := struct {
		PodLabels string
		Versions  []version
	}{Versions: []version{{"v1", nodeName(1)}, {"v2", nodeName(c.Options.Nodes)}}}
	if c.Options.HBONE {
		values.PodLabels = ", networking.istio.io/tunnel: http"
	}
	apps, err := c.manifest("apps.yaml", values)
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, apps); err != nil {
		return err
	}
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	c.phase("apps and gateway")
	return nil
}

// WaitReady waits until every deployment of the lab's is there, and requests have passed from the gateway to both backends.
func (c *Cluster) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, partWithin)
	defer cancel()
	for _, d := range [][2]string{
		{"kube-system", "coredns"}, {"istio-system", "istiod"}, {GatewayNamespace, Gateway},
		{Namespace, "frontend"}, {Namespace, "backend-v1"}, {Namespace, "backend-v2"},
	} {
		if err := c.WaitRollout(ctx, d[0], "deployment/"+d[1]); err != nil {
			return err
		}
	}
	return c.waitBackends(ctx)
}

// waitBackends waits until both versions of backend have answered since the last request that failed: proxies learn of one
// after the other.
func (c *Cluster) waitBackends(ctx context.Context) error {
	client := c.GatewayClient()
	defer client.CloseIdleConnections()
	answered := map[string]bool{}
	var last error
	err := await.Until(ctx, func() bool {
		var body []byte
		if body, last = get(ctx, client, c.GatewayURL()+"/ready?call=backend&relay=1", 200); last != nil {
			clear(answered)
			return false
		}
		answered[string(body)] = true
		const versions = 2
		return len(answered) == versions
	})
	if err != nil {
		return fmt.Errorf("wait for answers of both backends by the gateway, there are %v: %w: %w", answered, err, last)
	}
	return nil
}

// GatewayURL is where clients send requests, without a path. It is reached with GatewayClient, or from a node.
func (c *Cluster) GatewayURL() string {
	return "http://" + nodeAddr(1).String() + ":" + gatewayNodePort
}
