package xds

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// How a control plane is talked to.
const (
	Plaintext = "plaintext" // istiod's port 15010
	Token     = "token"     // TLS, and a token with each call: istiod's port 15012
	MTLS      = "mtls"      // TLS, with a certificate that istiod's CA gives for the token
)

// Settings say which control plane, and how to talk to it. The zero value: none.
type Settings struct {
	Address    string // host:port
	Security   string
	RootFile   string // PEM
	TokenFile  string // read anew each time, as Kubernetes renews it
	ServerName string // in the control plane's certificate; empty: the host of Address
	ClusterID  string // Istio's id of the Kubernetes cluster
	// TrustDomain is the mesh's, such as cluster.local. With MTLS, what a proxy is told is then asked for with a certificate of its
	// own service account. istiod's CA gives it to an agent whose account is among its CA_TRUSTED_NODE_ACCOUNTS, for pods of the
	// agent's node. Empty: all is asked for with the agent's own, which istiod lets ask for proxies of its own namespace only.
	TrustDomain string
}

// Validate says what is wrong; key is the section's name.
func (s *Settings) Validate(key string) error {
	if s.Address == "" {
		return nil
	}
	var errs []error
	if host, port, err := net.SplitHostPort(s.Address); err != nil || host == "" || port == "" {
		errs = append(errs, fmt.Errorf("%s.address is %q: it must be a host and a port, such as istiod.istio-system.svc:15012, or empty", key, s.Address))
	}
	switch s.Security {
	case Plaintext:
		return errors.Join(errs...)
	case Token, MTLS:
	default:
		errs = append(errs, fmt.Errorf("%s.security is %q: it must be one of %s", key, s.Security, strings.Join([]string{Plaintext, Token, MTLS}, ", ")))
	}
	for name, file := range map[string]string{"root_file": s.RootFile, "token_file": s.TokenFile} {
		if file == "" {
			errs = append(errs, fmt.Errorf("%s.%s is empty: security %s needs it; plaintext does not", key, name, s.Security))
		}
	}
	return errors.Join(errs...)
}

// serverName is who the control plane's certificate must be for.
func (s *Settings) serverName() string {
	if s.ServerName != "" {
		return s.ServerName
	}
	host, _, _ := net.SplitHostPort(s.Address) // Validate has seen it
	return host
}
