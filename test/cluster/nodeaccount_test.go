package cluster

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// trusted is an agent's place in the cluster: a pod on the node whose account istiod trusts (CA_TRUSTED_NODE_ACCOUNTS), and one of another.
const trusted = `
apiVersion: v1
kind: Namespace
metadata: {name: trusted}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: trusted}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: other, namespace: trusted}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: trusted, labels: {app: agent}}
spec:
  serviceAccountName: agent
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "lab.local/app:lab", imagePullPolicy: IfNotPresent, args: [--name=agent, --port=8080]}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: trusted, labels: {app: other}}
spec:
  serviceAccountName: other
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "lab.local/app:lab", imagePullPolicy: IfNotPresent, args: [--name=other, --port=8080]}]
`

// checkNodeAccount asks for what all proxies of the node are told, of whatever namespace, with certificates of their own accounts: istiod's
// CA gives them to an agent whose account it trusts, and to no other.
func (c *Cluster) checkNodeAccount(t *testing.T, istiod Pod, proxies []xds.Proxy) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), trusted); err != nil {
			t.Error(err)
		}
	})
	if err := c.Apply(t.Context(), trusted); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(t.Context(), "trusted", "condition=Ready", partWithin, "pod/agent", "pod/other"); err != nil {
		t.Fatal(err)
	}
	var owned []xds.Proxy
	for _, p := range proxies {
		var is struct {
			Spec struct{ ServiceAccountName string }
		}
		if err := c.Get(t.Context(), &is, "pod/"+p.Name, "--namespace="+p.Namespace); err != nil {
			t.Fatal(err)
		}
		p.Account = is.Spec.ServiceAccountName
		owned = append(owned, p)
	}
	for account, told := range map[string]bool{"agent": true, "other": false} {
		token, err := c.PodToken(t.Context(), pod(t, c, "trusted", "app="+account), account, "istio-ca", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s := c.secureSettings(t, istiod, token)
		s.Security, s.TrustDomain = xds.MTLS, "cluster.local"
		client := c.followProxies(t, s)
		client.Follow(owned)
		err = await.Until(ctxWithin(t, soon), func() bool {
			n := 0
			for _, p := range client.Proxies() {
				if told && p.Connected && p.Resources > 10 || !told && !p.Connected && strings.Contains(p.Problem, "get a certificate of the control plane's CA") {
					n++
				}
			}
			return n == len(owned)
		})
		if err != nil {
			t.Errorf("%s: %v: %+v", account, err, client.Proxies())
		}
	}
}
