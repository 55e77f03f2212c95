package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
)

// Kubectl runs kubectl as the administrator and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	return c.run(ctx, 1, network, stdin, append([]string{c.program("kubectl")}, args...)...)
}

// Apply creates or changes the objects of manifests, which may be several documents. It tries again while an admission
// webhook cannot be reached: it, too, is a pod that starts.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	ctx, cancel := context.WithTimeout(ctx, partWithin)
	defer cancel()
	var last error
	err := await.Until(ctx, func() bool {
		_, err := c.Kubectl(ctx, strings.NewReader(manifests), "apply", "-f", "-")
		if last == nil || ctx.Err() == nil { // the one that is cut off says less than the one before
			last = err
		}
		return err == nil || !strings.Contains(err.Error(), "failed calling webhook")
	})
	if err := errors.Join(err, last); err != nil {
		return fmt.Errorf("apply manifests: %w", err)
	}
	return nil
}

// Delete deletes the objects of manifests and waits until they are gone. One that is not there is no error.
func (c *Cluster) Delete(ctx context.Context, manifests string) error {
	ctx, cancel := context.WithTimeout(ctx, partWithin)
	defer cancel()
	_, err := c.Kubectl(ctx, strings.NewReader(manifests), "delete", "--ignore-not-found", "--wait", "-f", "-")
	return err
}

// WaitRollout waits until a deployment or daemon set has only pods of its latest form, all ready.
func (c *Cluster) WaitRollout(ctx context.Context, namespace, resource string) error {
	within := partWithin
	if end, ok := ctx.Deadline(); ok {
		within = time.Until(end)
	}
	_, err := c.Kubectl(ctx, nil, "--namespace="+namespace, "rollout", "status", resource, "--timeout="+within.String())
	return err
}

// WaitFor waits for a condition of objects as kubectl wait knows it: "condition=Ready", "delete", "jsonpath=…".
func (c *Cluster) WaitFor(ctx context.Context, namespace, condition string, within time.Duration, objects ...string) error {
	args := append([]string{"--namespace=" + namespace, "wait", "--for=" + condition, "--timeout=" + within.String()}, objects...)
	_, err := c.Kubectl(ctx, nil, args...)
	return err
}

// Get reads an object, or with a label selector a list, into v.
func (c *Cluster) Get(ctx context.Context, v any, args ...string) error {
	out, err := c.Kubectl(ctx, nil, append([]string{"get", "--output=json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("read %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Exec runs a command in a pod's container and returns what it printed. The lab's apps have /usr/bin/fortio.
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, argv ...string) ([]byte, error) {
	args := []string{"--namespace=" + namespace, "exec", pod, "--container=" + container, "--"}
	return c.Kubectl(ctx, nil, append(args, argv...)...)
}

// clientTLS is how an identity of the cluster's calls the API server.
func clientTLS(identity string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(path("pki", identity+".crt"), path("pki", identity+".key"))
	if err != nil {
		return nil, fmt.Errorf("read the identity %s: %w", identity, err)
	}
	ca, err := os.ReadFile(path("pki", "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

// dialNode connects from a node.
func (c *Cluster) dialNode(node int) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		pid, err := keeper(node)
		if err != nil {
			return nil, err
		}
		return dialFrom(ctx, pid, address)
	}
}

// clientWithin bounds one request of the clients below.
const clientWithin = 30 * time.Second

// GatewayClient sends requests from outside of the mesh: from the first node, where no sidecar is.
func (c *Cluster) GatewayClient() *http.Client {
	return &http.Client{Timeout: clientWithin, Transport: &http.Transport{DialContext: c.dialNode(1)}}
}

// get requests a URL and returns the answer, which must have this status.
func get(ctx context.Context, client *http.Client, url string, status int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("get %s: status %d, want %d: %s", url, resp.StatusCode, status, bytes.TrimSpace(body))
	}
	return body, err
}
