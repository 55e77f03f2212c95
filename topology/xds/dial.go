package xds

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	maxMessage       = 64 << 20         // of a response: 100,000 workloads are about 30 MB
	keepalivePeriod  = 30 * time.Second // what Istio's own agents have
	keepaliveTimeout = 10 * time.Second
	connectTimeout   = 5 * time.Second
)

// dial makes a connection, and says when it is to be made anew: zero for never. It connects with the first call.
func (l *link) dial(ctx context.Context) (conn *grpc.ClientConn, renew time.Time, err error) {
	options := l.options()
	switch l.settings.Security {
	case Plaintext:
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	case Token, MTLS:
		config, err := l.settings.tls()
		if err != nil {
			return nil, renew, err
		}
		if l.settings.Security == MTLS {
			certificate, err := l.identity.certificate(ctx, config)
			if err != nil {
				return nil, renew, err
			}
			config.Certificates, renew = []tls.Certificate{*certificate}, l.identity.renew
		} else {
			options = append(options, grpc.WithPerRPCCredentials(l.identity))
		}
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}
	conn, err = grpc.NewClient("passthrough:///"+l.settings.Address, options...)
	if err != nil {
		return nil, renew, fmt.Errorf("connect to control plane %s: %w", l.settings.Address, err)
	}
	return conn, renew, nil
}

func (l *link) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: l.pings, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithDisableServiceConfig(),
	}
}

// fewerPings obeys a server that ends connections for being asked too often whether it is there.
func (l *link) fewerPings(err error) {
	if err != nil && strings.Contains(err.Error(), "too_many_pings") {
		l.pings *= 2
	}
}

// tls trusts the root certificates as they are now.
func (s *Settings) tls() (*tls.Config, error) {
	pem, err := os.ReadFile(s.RootFile)
	if err != nil {
		return nil, fmt.Errorf("read the control plane's root certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the control plane's root certificate: %s has no certificate in PEM", s.RootFile)
	}
	return &tls.Config{RootCAs: roots, ServerName: s.serverName(), MinVersion: tls.VersionTLS12}, nil
}
