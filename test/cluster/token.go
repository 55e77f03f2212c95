package cluster

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// tokenIssuer is who signs service account tokens: the API server, and this package with the same key.
const tokenIssuer = "https://kubernetes.default.svc.cluster.local"

// Token signs a service account's token that is valid from a minute ago until life from now; a negative life is one that has
// expired. The API server and istiod take it as their own: so a test need not wait the ten minutes that theirs live at least.
func (c *Cluster) Token(ctx context.Context, namespace, account, audience string, life time.Duration) (string, error) {
	return c.token(ctx, namespace, account, audience, life, nil)
}

// PodToken is Token, of an account as one of its pods has it.
func (c *Cluster) PodToken(ctx context.Context, p Pod, account, audience string, life time.Duration) (string, error) {
	return c.token(ctx, p.Namespace, account, audience, life, map[string]string{"name": p.Name, "uid": p.UID})
}

func (c *Cluster) token(ctx context.Context, namespace, account, audience string, life time.Duration, pod map[string]string) (string, error) {
	var sa struct{ Metadata struct{ UID string } }
	if err := c.Get(ctx, &sa, "serviceaccount/"+account, "--namespace="+namespace); err != nil {
		return "", err
	}
	key, err := tokenKey()
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	now := time.Now()
	begun := min(0, life) - time.Minute
	head := map[string]any{"alg": "RS256", "kid": key.id}
	bound := map[string]any{"namespace": namespace, "serviceaccount": map[string]string{"name": account, "uid": sa.Metadata.UID}}
	if pod != nil {
		bound["pod"] = pod
	}
	claims := map[string]any{
		"iss": tokenIssuer, "sub": "system:serviceaccount:" + namespace + ":" + account, "aud": []string{audience},
		"iat": now.Add(begun).Unix(), "nbf": now.Add(begun).Unix(), "exp": now.Add(life).Unix(), "kubernetes.io": bound,
	}
	return key.sign(head, claims)
}

// signer is the key of tokens, and how tokens name it.
type signer struct {
	key *rsa.PrivateKey
	id  string
}

func tokenKey() (signer, error) {
	text, err := os.ReadFile(path("pki", "tokens.key"))
	if err != nil {
		return signer{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return signer{}, errors.New("the key of tokens is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return signer{}, err
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return signer{}, fmt.Errorf("the key of tokens is a %T", parsed)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return signer{}, err
	}
	sum := sha256.Sum256(der) // as the API server names its keys
	return signer{key, base64.RawURLEncoding.EncodeToString(sum[:])}, nil
}

func (s signer) sign(head, claims any) (string, error) {
	var text string
	for i, part := range []any{head, claims} {
		data, err := json.Marshal(part)
		if err != nil {
			return "", fmt.Errorf("sign token: %w", err)
		}
		if i > 0 {
			text += "."
		}
		text += base64.RawURLEncoding.EncodeToString(data)
	}
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// tokenFile is where the kubelet keeps a token that it mounts into a pod, by its file name in the pod: in memory, on a mount that
// only the node has.
func (p Pod) tokenFile(name string) (string, error) {
	node, err := nodeNumber(p.Node)
	if err != nil {
		return "", err
	}
	pid, err := keeper(node)
	if err != nil {
		return "", err
	}
	kubelet := fmt.Sprintf("/proc/%d/root/var/lib/kubelet", pid)
	files, _ := filepath.Glob(filepath.Join(kubelet, "pods", p.UID, "volumes", "kubernetes.io~projected", "*", name)) //nolint:errcheck // the pattern is right
	if len(files) != 1 {
		return "", fmt.Errorf("find the token %s of pod %s: there are %d", name, p.Name, len(files))
	}
	return files[0], nil
}
