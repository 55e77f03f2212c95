package xds

import (
	"fmt"
	"maps"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
)

// subscription is to all resources of a type. It is the protocol's part of a client, without a connection.
type subscription struct {
	typeURL  string
	versions map[string]string // of the resources that are held, by name
}

// begin is the first request of a connection. It says what is held, so that only the rest comes, and what is gone is said.
func (s *subscription) begin() *discovery.DeltaDiscoveryRequest {
	return &discovery.DeltaDiscoveryRequest{TypeUrl: s.typeURL, InitialResourceVersions: maps.Clone(s.versions)}
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
		if _, held := s.versions[name]; held {
			delete(s.versions, name)
			remove(name)
		}
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
	if err := set(r.Name, r.Resource.Value); err != nil {
		return err
	}
	s.versions[r.Name] = r.Version
	return nil
}
