package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
)

// subscription is to resources of a type. It is the protocol's part of a client, without a connection.
type subscription struct {
	typeURL  string
	names    map[string]bool   // nil: all of the type
	versions map[string]string // of the resources that are held, by name
}

// begin is the first request of a connection. It says what is held, so that only the rest comes, and what is gone is said.
func (s *subscription) begin() *discovery.DeltaDiscoveryRequest {
	return &discovery.DeltaDiscoveryRequest{TypeUrl: s.typeURL, InitialResourceVersions: maps.Clone(s.versions), ResourceNamesSubscribe: slices.Sorted(maps.Keys(s.names))}
}

// want changes the names of a subscription, and is what to tell the control plane of it; nil: nothing. What is no longer asked for is
// no longer held.
func (s *subscription) want(names map[string]bool, remove func(name string)) *discovery.DeltaDiscoveryRequest {
	r := &discovery.DeltaDiscoveryRequest{TypeUrl: s.typeURL}
	for name := range names {
		if !s.names[name] {
			r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, name)
		}
	}
	for name := range s.names {
		if !names[name] {
			r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, name)
			s.drop(name, remove)
		}
	}
	s.names = names
	if len(r.ResourceNamesSubscribe)+len(r.ResourceNamesUnsubscribe) == 0 {
		return nil
	}
	slices.Sort(r.ResourceNamesSubscribe)
	slices.Sort(r.ResourceNamesUnsubscribe)
	return r
}

func (s *subscription) drop(name string, remove func(name string)) {
	if _, held := s.versions[name]; held {
		delete(s.versions, name)
		remove(name)
	}
}

// maxNamed is how many bad resources an answer names.
const maxNamed = 5

// update takes a response, and makes the answer: it accepts (ACK), or says which resources are bad (NACK). Of those the last good
// state stays, with its version; the others are taken.
func (s *subscription) update(r *discovery.DeltaDiscoveryResponse, set func(name string, value []byte) error, remove func(name string)) (answer *discovery.DeltaDiscoveryRequest, bad int) {
	var why []string
	for _, resource := range r.Resources {
		if err := s.resource(resource, set); err != nil {
			if bad++; bad <= maxNamed {
				why = append(why, fmt.Sprintf("%q: %v", resource.Name, err))
			}
		}
	}
	for _, name := range r.RemovedResources {
		s.drop(name, remove)
	}
	answer = &discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	if r.TypeUrl != s.typeURL {
		bad++
		why = []string{fmt.Sprintf("type %s was not asked for", r.TypeUrl)}
	}
	if bad > 0 {
		answer.ErrorDetail = &status.Status{Code: code, Message: fmt.Sprintf("%d resources cannot be read: %s", bad, strings.Join(why, "; "))}
	}
	return answer, bad
}

func (s *subscription) resource(r *discovery.Resource, set func(name string, value []byte) error) error {
	if url := r.Resource.GetTypeUrl(); url != s.typeURL {
		return fmt.Errorf("it is of type %q, not %q", url, s.typeURL)
	}
	if s.names != nil && !s.names[r.Name] {
		return nil // it was on its way when it was asked for no more
	}
	if err := set(r.Name, r.Resource.Value); err != nil {
		return err
	}
	s.versions[r.Name] = r.Version
	return nil
}
