package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"time"
)

// certificate is the file with a pod's certificate and key.
func (l *Lab) certificate(pod string) string { return l.path("conf", pod+".pem") }

// CAFile is the file with the certificate of who signed them.
func (l *Lab) CAFile() string { return l.path("conf", "ca.pem") }

// signer is the file with that certificate and its key.
func (l *Lab) signer() string { return l.path("conf", "signer.pem") }

// ClientTLS is what the client trusts, a new one; nil: the mesh speaks clear text.
func (l *Lab) ClientTLS() *tls.Config {
	if !l.Options.TLS {
		return nil
	}
	roots := x509.NewCertPool()
	if pem, err := os.ReadFile(l.CAFile()); err == nil {
		roots.AppendCertsFromPEM(pem)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// makeCertificates makes what a mesh's certificate authority would: one for each pod, with its SPIFFE identity and addresses, valid for
// a day.
func (l *Lab) makeCertificates() error {
	if err := l.makeCA(); err != nil {
		return fmt.Errorf("make a certificate authority: %w", err)
	}
	for _, p := range l.Pods() {
		if err := l.makeCertificate(p); err != nil {
			return err
		}
	}
	return nil
}

// makeCertificate makes one pod's. Its serial number is the pod's place among the lab's addresses.
func (l *Lab) makeCertificate(p Pod) error {
	ca, err := tls.LoadX509KeyPair(l.signer(), l.signer())
	if err != nil {
		return fmt.Errorf("make a certificate for %s: %w", p.Name, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a certificate for %s: %w", p.Name, err)
	}
	template := validFrom(int64(p.Index) + firstHost)
	template.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/demo/sa/" + p.Name}}
	template.IPAddresses = []net.IP{p.V4.AsSlice(), p.V6.AsSlice()}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		return fmt.Errorf("make a certificate for %s: %w", p.Name, err)
	}
	return writePEM(l.certificate(p.Name), der, key)
}

func (l *Lab) makeCA() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := validFrom(1)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	template.Subject = pkix.Name{CommonName: "meshwatch lab " + l.ID}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if err := writePEM(l.signer(), der, key); err != nil {
		return err
	}
	return writePEM(l.CAFile(), der, nil)
}

func validFrom(serial int64) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour)}
}

// writePEM writes a certificate, and its key, to a file that the proxies' user may read: it is worth nothing outside of this lab.
func writePEM(file string, der []byte, key *ecdsa.PrivateKey) error {
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if key != nil {
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	}
	if err := os.WriteFile(file, out, 0o644); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}
