package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/await"
)

// gatewayCRD is the Gateway API's HTTPRoute, as far as istiod asks for it: it takes no CRD without a version.
const gatewayCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httproutes.gateway.networking.k8s.io
  annotations:
    api-approved.kubernetes.io: https://github.com/kubernetes-sigs/gateway-api/pull/2997
    gateway.networking.k8s.io/bundle-version: v1.6.0
    gateway.networking.k8s.io/channel: standard
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: HTTPRoute, listKind: HTTPRouteList, plural: httproutes, singular: httproute}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// gatewayRoute is a service whose requests an HTTPRoute has rules for, in the mesh: no gateway is needed.
const gatewayRoute = `
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: demo}
spec: {selector: {app: backend}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: by-gateway-api, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: routed}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /}}]
      timeouts: {request: 3s}
      backendRefs: [{group: "", kind: Service, name: routed, port: 80, weight: 1}]
`

// installGatewayAPI is for before an agent starts, which looks for what is not there once a minute.
func installGatewayAPI(t *testing.T, c *Cluster) {
	t.Helper()
	apply(t, c, gatewayCRD, func() error {
		return c.WaitFor(t.Context(), "default", "condition=Established", soon, "crd/httproutes.gateway.networking.k8s.io")
	})
}

// testGatewayRoute asks by a service for which an HTTPRoute has the rules: journeys and `meshwatch topology routes` say which.
func (c *Cluster) testGatewayRoute(t *testing.T, a *Agent) {
	t.Helper()
	frontend := pod(t, c, Namespace, "app=frontend")
	want := journey.Resource{Kind: "HTTPRoute", Namespace: Namespace, Name: "by-gateway-api"}
	apply(t, c, gatewayRoute, func() error {
		rules, err := a.Routes(t.Context(), Namespace, frontend.Name)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(rules, func(r control.Rule) bool {
			return r.Resource == "HTTPRoute demo/by-gateway-api" && slices.Contains(r.Domains, "routed.demo.svc.cluster.local") && r.Timeout == 3*time.Second
		}) {
			return fmt.Errorf("the frontend's proxy has no such route: %+v", rules)
		}
		return nil
	})
	var said []journey.Governance
	err := await.Until(ctxWithin(t, soon), func() bool {
		if _, err := c.Exec(t.Context(), Namespace, frontend.Name, "app", "fortio", "curl", "-quiet", "-timeout=2s", "http://routed/by-gateway-api"); err != nil {
			t.Error(err)
		}
		said = nil
		for j, err := range a.Journeys() {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range j.Exchanges {
				if e.Target == "/by-gateway-api" && e.Governance != nil && e.Governance.Service == "routed.demo.svc.cluster.local" {
					said = append(said, *e.Governance)
				}
			}
		}
		return slices.ContainsFunc(said, func(g journey.Governance) bool {
			return g.Defined == want && g.Policy != nil && g.Policy.Timeout == 3*time.Second
		})
	})
	if err != nil {
		t.Errorf("%v: no journey is said to be governed by %+v: %+v", err, want, said)
	}
	for _, g := range said {
		if g.Defined != want && g.Unknown == "" {
			t.Errorf("governed by %+v, want %+v", g, want)
		}
	}
}
