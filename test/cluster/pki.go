package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// identity is a certificate of the cluster's authority: by its name and groups the API server knows who calls.
type identity struct {
	file   string // NAME.crt, NAME.key, and NAME.kubeconfig if it calls the API
	name   string
	groups []string
	dns    []string
	ips    []string
	calls  bool
}

func identities(nodes int) []identity {
	list := []identity{
		{file: "apiserver", name: "kube-apiserver", ips: []string{"127.0.0.1", apiService, nodeAddr(1).String()},
			dns: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}},
		{file: "admin", name: "admin", groups: []string{"system:masters"}, calls: true},
		{file: "kubelet-client", name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{file: "front-proxy", name: "front-proxy-client"},
		{file: "controller-manager", name: "system:kube-controller-manager", calls: true},
		{file: "scheduler", name: "system:kube-scheduler", calls: true},
		{file: "kube-proxy", name: "system:kube-proxy", calls: true},
	}
	for n := 1; n <= nodes; n++ {
		list = append(list, identity{file: nodeName(n), name: "system:node:" + nodeName(n), groups: []string{"system:nodes"},
			dns: []string{nodeName(n)}, ips: []string{nodeAddr(n).String()}, calls: true})
	}
	return list
}

// certificateLife is longer than any cluster of the lab.
const certificateLife = 10 * 365 * 24 * time.Hour

// makePKI writes the cluster's authority, its identities, and the key that signs service account tokens.
func makePKI(dir string, nodes int) error {
	caKey, err := newKey()
	if err != nil {
		return err
	}
	ca := newCertificate("meshwatch-cluster-ca")
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if err := writeIdentity(dir, "ca", ca, ca, caKey, caKey); err != nil {
		return err
	}
	for _, id := range identities(nodes) {
		key, err := newKey()
		if err != nil {
			return err
		}
		if err := writeIdentity(dir, id.file, id.certificate(), ca, key, caKey); err != nil {
			return err
		}
		if !id.calls {
			continue
		}
		user := fmt.Sprintf("client-certificate: %s, client-key: %s", path("pki", id.file+".crt"), path("pki", id.file+".key"))
		if err := writeKubeconfig(kubeconfig(id.file), user); err != nil {
			return err
		}
	}
	return writeTokenKey(dir)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

func newCertificate(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) //nolint:errcheck // never fails
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(certificateLife),
	}
}

func (id identity) certificate() *x509.Certificate {
	cert := newCertificate(id.name)
	cert.Subject.Organization = id.groups
	cert.DNSNames = id.dns
	for _, ip := range id.ips {
		cert.IPAddresses = append(cert.IPAddresses, net.ParseIP(ip))
	}
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return cert
}

func writeIdentity(dir, name string, cert, ca *x509.Certificate, key, caKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, key.Public(), caKey)
	if err != nil {
		return fmt.Errorf("sign certificate %s: %w", name, err)
	}
	if err := writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der, 0o644); err != nil {
		return err
	}
	return writeKey(filepath.Join(dir, name+".key"), key)
}

// writeTokenKey writes the pair that signs service account tokens and checks them. See Token.
func writeTokenKey(dir string) error {
	const bits = 2048
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return fmt.Errorf("make the key of tokens: %w", err)
	}
	if err := writeKey(filepath.Join(dir, "tokens.key"), key); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("make the key of tokens: %w", err)
	}
	return writePEM(filepath.Join(dir, "tokens.pub"), "PUBLIC KEY", der, 0o644)
}

func writeKey(file string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return writePEM(file, "PRIVATE KEY", der, 0o600)
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return fmt.Errorf("write %s: %w", kind, err)
	}
	return nil
}

// kubeconfig is the file with which an identity calls the API, from any node.
func kubeconfig(name string) string { return path("pki", name+".kubeconfig") }

// writeKubeconfig writes a file for a user.
func writeKubeconfig(file, user string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s:%s", certificate-authority: %s}}]
users: [{name: lab, user: {%s}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
`, nodeAddr(1), apiPort, path("pki", "ca.crt"), user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}
