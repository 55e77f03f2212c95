package kube

import (
	"fmt"
	"net/http"
	"sync/atomic"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Settings say which API server. The zero value: none.
type Settings struct {
	Enabled    bool
	Kubeconfig string // path; empty: the pod's own service account
	ClusterID  string // Istio's id of the Kubernetes cluster
}

// Validate says what is wrong; key is the section's name.
func (s *Settings) Validate(key string) error {
	if s.Enabled && s.ClusterID == "" {
		return fmt.Errorf("%s.cluster_id is empty: it must be Istio's id of this cluster, which is Kubernetes where nobody chose another", key)
	}
	return nil
}

// The client's own limit of requests a second, and how many at once. There are two requests for each resource at the start, then one every few
// minutes.
const (
	requestsPerSecond = 50
	requestsAtOnce    = 100
)

// Clients are the ways to an API server, one for each group. Connect makes them.
type Clients struct {
	core, discovery, networking, security, telemetry *client
	dynamic                                          dynamic.Interface
	failure                                          *atomic.Pointer[error] // of the latest request, nil in it: none
}

// client is for one group. Kubernetes' and Istio's own clients would be all groups and versions that there are: 50 MB of program.
type client struct {
	*rest.RESTClient
	group  string
	params runtime.ParameterCodec
}

// Connect makes the clients. It asks the API server nothing.
func Connect(s Settings) (Clients, error) {
	config, err := load(s.Kubeconfig)
	if err != nil {
		return Clients{}, err
	}
	return ConnectTo(config)
}

// ConnectTo is Connect with a configuration that is there. It changes it.
func ConnectTo(config *rest.Config) (c Clients, err error) {
	c.failure = &atomic.Pointer[error]{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return reach{next, c.failure} })
	config.UserAgent, config.QPS, config.Burst = "meshwatch", requestsPerSecond, requestsAtOnce
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return c, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	for _, g := range []struct {
		into  **client
		group string
		add   func(*runtime.Scheme) error
	}{
		{&c.core, "", core.AddToScheme}, {&c.discovery, discoveryGroup, discovery.AddToScheme}, {&c.networking, networkingGroup, networking.AddToScheme},
		{&c.security, securityGroup, security.AddToScheme}, {&c.telemetry, telemetryGroup, telemetry.AddToScheme},
	} {
		if *g.into, err = newClient(config, g.group, g.add); err != nil {
			return c, fmt.Errorf("connect to Kubernetes: %w", err)
		}
	}
	return c, nil
}

func newClient(config *rest.Config, group string, add func(*runtime.Scheme) error) (*client, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion, config.NegotiatedSerializer = "/apis", &schema.GroupVersion{Group: group, Version: "v1"}, serializer.NewCodecFactory(scheme).WithoutConversion()
	if group == "" {
		config.APIPath = "/api"
	}
	if group == "" || group == discoveryGroup {
		config.AcceptContentTypes, config.ContentType = runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON, runtime.ContentTypeProtobuf // a third of JSON's CPU
	}
	r, err := rest.RESTClientFor(config)
	return &client{r, group, runtime.NewParameterCodec(scheme)}, err
}

// reach notes how the latest request went: client-go makes an empty watch of one that broke off, and tells nobody why.
type reach struct {
	next    http.RoundTripper
	failure *atomic.Pointer[error] // nil in it: none
}

func (r reach) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	switch {
	case err == nil:
		r.failure.Store(nil)
	case req.Context().Err() == nil:
		r.failure.Store(&err)
	}
	return resp, err
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("find the service account of this pod: %w (outside of a cluster, topology.kubernetes.kubeconfig says where the API server is)", err)
	}
	return config, nil
}
