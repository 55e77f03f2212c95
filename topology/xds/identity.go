package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/structpb"
	security "istio.io/api/security/v1alpha1"
)

const (
	certificateLife = 24 * time.Hour // what Istio's own agents ask for
	issueTimeout    = 10 * time.Second
	renewAgain      = time.Minute // after the CA did not answer and the certificate is still good
	minRenew        = time.Second // a CA that gives certificates of no life is not asked all the time
)

// identity is who the agent is to the control plane: a service account's token, and the certificate that istiod gives for it. One
// goroutine uses it; the token may be asked for by any.
type identity struct {
	settings Settings
	log      *slog.Logger
	as       string // SPIFFE identity that the certificate is to have; empty: the token's own
	issued   *tls.Certificate
	renew    time.Time // issued
	end      time.Time // of issued
}

// token reads the token anew: Kubernetes renews it long before it expires.
func (i *identity) token() (string, error) {
	b, err := os.ReadFile(i.settings.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read the service account's token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("read the service account's token: %s is empty", i.settings.TokenFile)
	}
	return token, nil
}

// GetRequestMetadata gives each call the token.
func (i *identity) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := i.token()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token, "clusterid": i.settings.ClusterID}, nil
}

// RequireTransportSecurity keeps the token off connections that anybody can read.
func (i *identity) RequireTransportSecurity() bool { return true }

// namespace is the token's: istiod refuses who names another one.
func (i *identity) namespace() string {
	const unknown = "default"
	token, err := i.token()
	parts := strings.Split(token, ".")
	if err != nil || len(parts) != 3 {
		return unknown
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Subject string `json:"sub"` // system:serviceaccount:NAMESPACE:NAME
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return unknown
	}
	if words := strings.Split(claims.Subject, ":"); len(words) == 4 {
		return words[2]
	}
	return unknown
}

// certificate is the one that was issued, or another one when it is time. If the CA gives none, the old one serves until its end.
func (i *identity) certificate(ctx context.Context, config *tls.Config) (*tls.Certificate, error) {
	now := time.Now()
	if i.issued != nil && now.Before(i.renew) {
		return i.issued, nil
	}
	issued, end, err := i.request(ctx, config)
	switch {
	case err == nil:
		i.issued, i.end, i.renew = issued, end, renewal(now, end)
	case i.issued != nil && now.Before(i.end):
		i.renew = now.Add(min(renewAgain, i.end.Sub(now)))
		i.log.Warn("certificate is not renewed; the old one serves until its end", "end", i.end, "error", err)
	default:
		return nil, fmt.Errorf("get a certificate of the control plane's CA at %s: %w", i.settings.Address, err)
	}
	return i.issued, nil
}

// request is a new certificate with its end.
func (i *identity) request(ctx context.Context, config *tls.Config) (*tls.Certificate, time.Time, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("make a key: %w", err)
	}
	chain, err := i.issue(ctx, config, key)
	if err != nil {
		return nil, time.Time{}, err
	}
	certificate := &tls.Certificate{PrivateKey: key}
	for _, text := range chain {
		if block, _ := pem.Decode([]byte(text)); block != nil {
			certificate.Certificate = append(certificate.Certificate, block.Bytes)
		}
	}
	if len(certificate.Certificate) == 0 {
		return nil, time.Time{}, errors.New("its answer has no certificate")
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the certificate: %w", err)
	}
	return certificate, leaf.NotAfter, nil
}

// renewal leaves a certificate half of its life as a reserve for a CA that is away.
func renewal(now, end time.Time) time.Time { return now.Add(max(end.Sub(now)/2, minRenew)) }

// issue has the CA, which is where the control plane is, sign a request for this key. Whose certificate it becomes is for the CA to say, by the token.
func (i *identity) issue(ctx context.Context, config *tls.Config, key *ecdsa.PrivateKey) ([]string, error) {
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+i.settings.Address, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithPerRPCCredentials(i))
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // it is over
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	asked := &security.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
		ValidityDuration: int64(certificateLife / time.Second),
	}
	if i.as != "" {
		asked.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(i.as)}}
	}
	answer, err := security.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, asked)
	if err != nil {
		return nil, err
	}
	return answer.CertChain, nil
}
