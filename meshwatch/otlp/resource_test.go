package otlp

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// A workload's resource has what OpenTelemetry's conventions for Kubernetes call it.
func TestResource(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "")
	r, err := newResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	w := journey.Workload{
		Name: "shop-1", Namespace: "demo", Service: "shop", Node: "n1", Version: "v2", Kind: journey.KindPod, UID: "u", Cluster: "east", Region: "r1", Zone: "z1",
	}
	for _, kv := range r.get(w).Attributes() {
		got[string(kv.Key)] = kv.Value.AsString()
	}
	want := map[string]string{
		"service.name": "shop", "service.namespace": "demo", "service.version": "v2", "k8s.namespace.name": "demo", "k8s.pod.name": "shop-1", "k8s.pod.uid": "u",
		"k8s.node.name": "n1", "k8s.cluster.name": "east", "cloud.region": "r1", "cloud.availability_zone": "z1", "meshwatch.workload": "shop-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	w.Kind, w.ServiceNamespace = "WorkloadEntry", "team"
	for _, kv := range r.get(w).Attributes() {
		if kv.Key == "k8s.pod.name" || kv.Key == "service.namespace" && kv.Value.AsString() != "team" {
			t.Errorf("%s is %s", kv.Key, kv.Value.AsString())
		}
	}
}
