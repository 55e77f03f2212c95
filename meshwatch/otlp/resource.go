package otlp

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// maxResources bounds the cache: pods come and go. A node has a few hundred workloads.
const maxResources = 4096

// resources makes and keeps one resource per workload. Not for concurrent use.
type resources struct {
	common []attribute.KeyValue
	of     map[journey.Workload]*resource.Resource
}

// newResources reads OTEL_RESOURCE_ATTRIBUTES, which go on every workload. A service.name there and OTEL_SERVICE_NAME are
// ignored: they would name the agent, and these spans are the workloads'.
func newResources(ctx context.Context) (*resources, error) {
	env, err := resource.New(ctx, resource.WithFromEnv())
	if err != nil {
		const name = "OTEL_RESOURCE_ATTRIBUTES"
		return nil, &SettingError{name, os.Getenv(name), fmt.Sprintf("use key=value,key=value: %v", err)}
	}
	r := &resources{of: map[journey.Workload]*resource.Resource{}}
	for _, kv := range env.Attributes() {
		if kv.Key != semconv.ServiceNameKey {
			r.common = append(r.common, kv)
		}
	}
	return r, nil
}

func (r *resources) get(w journey.Workload) *resource.Resource {
	if res := r.of[w]; res != nil {
		return res
	}
	if len(r.of) >= maxResources {
		clear(r.of)
	}
	a := attributes{free: append([]attribute.KeyValue(nil), r.common...)} // the last of equal keys stays
	a.word(semconv.ServiceNameKey, w.Service)
	a.word(semconv.ServiceNamespaceKey, cmp.Or(w.ServiceNamespace, w.Namespace))
	a.word(semconv.ServiceVersionKey, w.Version)
	a.word(semconv.K8SNamespaceNameKey, w.Namespace)
	if w.Kind == journey.KindPod {
		a.word(semconv.K8SPodNameKey, w.Name)
		a.word(semconv.K8SPodUIDKey, w.UID)
	}
	a.word(semconv.K8SClusterNameKey, w.Cluster)
	a.word(semconv.CloudRegionKey, w.Region)
	a.word(semconv.CloudAvailabilityZoneKey, w.Zone)
	a.word(semconv.K8SNodeNameKey, w.Node)
	a.word(keyWorkload, w.Name)
	res := resource.NewWithAttributes(semconv.SchemaURL, a.free...)
	r.of[w] = res
	return res
}
