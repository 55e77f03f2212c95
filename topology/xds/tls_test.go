package xds

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"
)

// authority is a CA like istiod's: it gives a certificate for a token.
type authority struct {
	security.UnimplementedIstioCertificateServiceServer
	t    *testing.T
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	life time.Duration
	// trusts says whether it gives certificates of others' accounts.
	trusts  bool
	serving atomic.Pointer[tls.Certificate] // the control plane's
	mu      sync.Mutex
	token   string              // that it takes
	gave    map[string][]string // tokens by what was called: issue, ADS
	seen    map[string]bool     // serial numbers of clients' certificates
	as      []string            // identities in them
}

func newAuthority(t *testing.T, life time.Duration) *authority {
	a := &authority{t: t, life: life, token: jwt("one"), gave: map[string][]string{}, seen: map[string]bool{}}
	a.key = newKey(t)
	a.root = &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	a.root, _ = x509.ParseCertificate(a.sign(a.root, a.key.Public()))
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jwt is a token of a service account in namespace mesh.
func jwt(signature string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:mesh:meshwatch"}`)) + "." + signature
}

func (a *authority) sign(c *x509.Certificate, public crypto.PublicKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, c, a.root, public, a.key)
	if err != nil {
		a.t.Error(err)
	}
	return der
}

func (a *authority) CreateCertificate(ctx context.Context, r *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	if err := a.check(ctx, "issue"); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(r.Csr))
	if block == nil {
		return nil, status.Error(codes.InvalidArgument, "no request in PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil {
		return nil, status.Errorf(codes.InvalidArgument, "bad request: %v", err)
	}
	template := &x509.Certificate{NotAfter: time.Now().Add(a.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if as := r.Metadata.GetFields()["ImpersonatedIdentity"].GetStringValue(); as != "" {
		u, err := url.Parse(as)
		if err != nil || !a.trusts {
			return nil, status.Error(codes.Unauthenticated, "request impersonation authentication failure")
		}
		template.URIs = []*url.URL{u}
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template.SerialNumber = serial
	leaf := a.sign(template, request.PublicKey)
	return &security.IstioCertificateResponse{CertChain: []string{pemOf(leaf), pemOf(a.root.Raw)}}, nil
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// check notes the token of a call and refuses a wrong one.
func (a *authority) check(ctx context.Context, call string) error {
	md, _ := metadata.FromIncomingContext(ctx)
	given, _ := strings.CutPrefix(strings.Join(md.Get("authorization"), ","), "Bearer ")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gave[call] = append(a.gave[call], given)
	if given != a.token || strings.Join(md.Get("clusterid"), ",") != "Kubernetes" {
		return status.Error(codes.Unauthenticated, "the token is not good")
	}
	return nil
}

// admit lets in who has a certificate or, where tokens are taken, a token.
func (a *authority) admit(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if p, _ := peer.FromContext(s.Context()); p != nil {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			a.mu.Lock()
			a.seen[info.State.PeerCertificates[0].SerialNumber.String()] = true
			for _, u := range info.State.PeerCertificates[0].URIs {
				a.as = append(a.as, u.String())
			}
			a.mu.Unlock()
			return next(srv, s)
		}
	}
	if err := a.check(s.Context(), "ADS"); err != nil {
		return err
	}
	return next(srv, s)
}

func (a *authority) certificates() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

func (a *authority) accept(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = token
}

// serve gives the control plane a certificate of this life; negative: it has expired.
func (a *authority) serve(life time.Duration) {
	key := newKey(a.t)
	leaf := a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"istiod.istio-system.svc"}, NotAfter: time.Now().Add(life)}, key.Public())
	a.serving.Store(&tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key})
}

// secure is a control plane behind TLS with an authority, and the settings of its clients.
func secure(t *testing.T, how string, a *authority) (*plane, Settings) {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	a.serve(time.Hour)
	config := &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.serving.Load(), nil }, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven,
	}
	p := newPlane(t, func(s *grpc.Server) { security.RegisterIstioCertificateServiceServer(s, a) }, grpc.Creds(credentials.NewTLS(config)), grpc.StreamInterceptor(a.admit))
	p.set(map[string][]byte{"a": pod("a", "10.0.0.1")})
	dir := t.TempDir()
	s := Settings{
		Address: p.address, Security: how, RootFile: filepath.Join(dir, "root.pem"), TokenFile: filepath.Join(dir, "token"),
		ServerName: "istiod.istio-system.svc", ClusterID: "Kubernetes",
	}
	writeFile(t, s.RootFile, pemOf(a.root.Raw))
	writeFile(t, s.TokenFile, jwt("one")+"\n")
	return p, s
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The certificate is renewed before its end, with the token as it is then, and the control plane meets the new one.
func TestMutualTLS(t *testing.T) {
	a := newAuthority(t, 4*time.Second)
	p, s := secure(t, MTLS, a)
	f := follow(t, s)
	f.is("10.0.0.1", "a")
	if requests, _ := p.seen(); !strings.Contains(requests[0].Node.Id, ".mesh~mesh.svc.") {
		t.Errorf("node %s: the namespace must be the token's", requests[0].Node.Id)
	}
	a.accept(jwt("two"))
	writeFile(t, s.TokenFile, jwt("two"))
	issued := func() []string {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Compact(slices.Clone(a.gave["issue"]))
	}
	f.await("a certificate for the second token", func() bool { return len(issued()) == 2 && a.certificates() >= 2 })
	p.set(map[string][]byte{"b": pod("b", "10.0.0.2")})
	f.is("10.0.0.2", "b")
	if got := issued(); got[0] != jwt("one") || got[1] != jwt("two") || len(a.gave["ADS"]) > 0 {
		t.Errorf("tokens %v", a.gave)
	}
}

// A CA that refuses leaves the certificate that is there in use until its end; after that, the refusal is the reason given.
func TestNotRenewed(t *testing.T) {
	a := newAuthority(t, 3*time.Second)
	_, s := secure(t, MTLS, a)
	f := follow(t, s)
	f.is("10.0.0.1", "a")
	a.accept("another")
	f.await("lost for want of a certificate", func() bool {
		s := f.Status()
		return !s.Connected && strings.Contains(s.Problem, "get a certificate of the control plane's CA") && strings.Contains(s.Problem, "the token is not good")
	})
	if a.certificates() != 1 {
		t.Errorf("%d certificates", a.certificates())
	}
	f.is("10.0.0.1", "a")
	a.accept(jwt("one"))
	f.await("back", func() bool { return f.Status().Connected && a.certificates() == 2 })
}

// A control plane whose own certificate has expired is away until it has another: what it told stays.
func TestExpired(t *testing.T) {
	a := newAuthority(t, time.Hour)
	p, s := secure(t, Token, a)
	f := follow(t, s)
	f.is("10.0.0.1", "a")
	a.serve(-time.Minute)
	p.down()
	p.up()
	f.await("expired", func() bool {
		s := f.Status()
		return !s.Connected && strings.Contains(s.Problem, "certificate has expired")
	})
	f.is("10.0.0.1", "a")
	a.serve(time.Hour)
	p.set(map[string][]byte{"b": pod("b", "10.0.0.2")})
	f.is("10.0.0.2", "b")
}

func TestToken(t *testing.T) {
	a := newAuthority(t, time.Hour)
	p, s := secure(t, Token, a)
	a.accept(jwt("two"))
	f := follow(t, s)
	f.await("refused", func() bool { return strings.Contains(f.Status().Problem, "the token is not good") })
	writeFile(t, s.TokenFile, jwt("two"))
	f.is("10.0.0.1", "a")
	p.down()
	a.accept(jwt("three"))
	p.up()
	f.await("refused again", func() bool { return strings.Contains(f.Status().Problem, "the token is not good") })
	writeFile(t, s.TokenFile, jwt("three"))
	f.await("back", func() bool { return f.Status().Connected })
}

// An agent that the control plane trusts asks for what a proxy is told as the proxy; one that it does not trust is told nothing.
func TestNodeAccount(t *testing.T) {
	for _, trusts := range []bool{true, false} {
		a := newAuthority(t, time.Hour)
		a.trusts = trusts
		_, s := secure(t, MTLS, a)
		s.TrustDomain = "mesh.example"
		f := follow(t, s)
		p, _ := onePod("p")
		f.Follow([]Proxy{p})
		f.is("10.0.0.1", "a") // workloads are asked for as the agent itself
		f.await("the proxy's state", func() bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			all := f.Proxies()
			if trusts {
				return len(a.as) > 0 && a.as[0] == "spiffe://mesh.example/ns/shop/sa/a"
			}
			return len(all) == 1 && strings.Contains(all[0].Problem, "impersonation") && len(a.as) == 0
		})
		f.stop()
	}
}

func TestWrongServer(t *testing.T) {
	a, other := newAuthority(t, time.Hour), newAuthority(t, time.Hour)
	_, s := secure(t, Token, a)
	for want, change := range map[string]func(*Settings){
		"unknown authority":        func(s *Settings) { writeFile(t, s.RootFile, pemOf(other.root.Raw)) },
		"no certificate in PEM":    func(s *Settings) { writeFile(t, s.RootFile, "none") },
		"not elsewhere.example":    func(s *Settings) { s.ServerName = "elsewhere.example" },
		"no such file":             func(s *Settings) { s.RootFile += ".none" },
		"service account's token":  func(s *Settings) { s.TokenFile += ".none" },
		"get a certificate of the": func(s *Settings) { s.Security, s.TokenFile = MTLS, s.TokenFile+".none" },
	} {
		changed := s
		writeFile(t, s.RootFile, pemOf(a.root.Raw))
		change(&changed)
		f := follow(t, changed)
		f.await(want, func() bool { return strings.Contains(f.Status().Problem, want) })
		f.stop()
	}
	if len(a.gave["ADS"]) > 0 {
		t.Errorf("a token was given: %v", a.gave)
	}
}

func TestValidate(t *testing.T) {
	good := Settings{Address: "istiod:15012", Security: MTLS, RootFile: "r", TokenFile: "t"}
	for want, change := range map[string]func(*Settings){
		"": func(*Settings) {},
		`xds.address is "istiod": it must be a host and a port, such as istiod.istio-system.svc:15012, or empty`: func(s *Settings) { s.Address = "istiod" },
		`xds.security is "tls": it must be one of plaintext, token, mtls`:                                        func(s *Settings) { s.Security = "tls" },
		"xds.root_file is empty: security mtls needs it; plaintext does not":                                     func(s *Settings) { s.RootFile = "" },
		"xds.token_file is empty: security token needs it; plaintext does not":                                   func(s *Settings) { s.Security, s.TokenFile = Token, "" },
	} {
		s := good
		change(&s)
		text := ""
		if err := s.Validate("xds"); err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%q, want %q", text, want)
		}
	}
	for _, s := range []Settings{{}, {Address: "istiod:15010", Security: Plaintext}} {
		if err := s.Validate("xds"); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
