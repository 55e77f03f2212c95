package kube

import (
	"fmt"
	"net/http"
	"sync/atomic"

	istio "istio.io/client-go/pkg/clientset/versioned"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
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
	if c.Istio, err = istio.NewForConfig(config); err == nil {
		c.Dynamic, err = dynamic.NewForConfig(config)
	}
	if err == nil {
		config = rest.CopyConfig(config)
		config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf" // a third of JSON's CPU
		c.Kubernetes, err = kubernetes.NewForConfig(config)
	}
	if err != nil {
		return Clients{}, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return c, nil
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
