package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/await"
)

// Agent is a `meshwatch agent` on the first node, which asks istiod, the API server and istiod for the node's proxies. It runs until
// it is stopped or the cluster is taken down.
type Agent struct {
	*control.Client
	program, socket string
	pid             int
	node            string
}

// agentConfig takes istiod's address, a kubeconfig, the node's name, headers to capture, a socket and the address of metrics. Few journeys are retained,
// at some 25 KB each, so that what is retained does not look like a leak.
const agentConfig = `topology:
  xds: {address: "%s:15010", security: plaintext, proxies: true}
  kubernetes: {enabled: true, kubeconfig: %s, node: %s}
capture_headers: [%s]
control: {socket: %s}
metrics: {listen: %q}
output: json
retain: 500
budget: {agent: 0, recorder: 0}
`

// AgentMetrics is where the agent's metrics are, in the first node.
const AgentMetrics = "127.0.0.1:9464"

const agentName = "meshwatch"

// StartAgent starts a program that was built of this tree. dir is for its files. captures are headers.
func (c *Cluster) StartAgent(ctx context.Context, program, dir string, captures ...string) (*Agent, error) {
	istiod, err := c.istiodAddress(ctx)
	if err != nil {
		return nil, err
	}
	account, err := c.agentAccount(ctx, dir)
	if err != nil {
		return nil, err
	}
	socket, file := filepath.Join(dir, "sock"), filepath.Join(dir, "agent.yaml")
	config := fmt.Sprintf(agentConfig, istiod, account, nodeName(1), strings.Join(captures, ", "), socket, AgentMetrics)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write the agent's configuration: %w", err)
	}
	a := &Agent{Client: control.NewClient(socket), program: program, socket: socket, node: nodeName(1)}
	if err := c.serve(1, agentName, program, "agent", "--config", file); err != nil {
		return nil, err
	}
	a.pid, err = processOf(a.node + "-" + agentName)
	return a, err
}

// Rights is charts/rbac.yaml: the agent's service account, and what it may do.
func (c *Cluster) Rights() (string, error) {
	text, err := os.ReadFile(filepath.Join(c.root, "charts", "rbac.yaml"))
	if err != nil {
		return "", fmt.Errorf("read the agent's rights: %w", err)
	}
	return string(text), nil
}

// AgentToken is one of the account of Rights, good for an hour.
func (c *Cluster) AgentToken(ctx context.Context) (string, error) {
	const account = "meshwatch"
	return c.Token(ctx, account, account, tokenIssuer, time.Hour)
}

// agentAccount gives the agent's service account its rights, and writes a kubeconfig for it.
func (c *Cluster) agentAccount(ctx context.Context, dir string) (file string, err error) {
	rights, err := c.Rights()
	if err != nil {
		return "", err
	}
	if err := c.Apply(ctx, rights); err != nil {
		return "", err
	}
	token, err := c.AgentToken(ctx)
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "kubeconfig")
	return file, writeKubeconfig(file, "token: "+token)
}

// istiodAddress is the service's, which stays when istiod's pod is another.
func (c *Cluster) istiodAddress(ctx context.Context) (string, error) {
	var service struct{ Spec struct{ ClusterIP string } }
	if err := c.Get(ctx, &service, "service/istiod", "--namespace=istio-system"); err != nil {
		return "", fmt.Errorf("find istiod's address: %w", err)
	}
	return service.Spec.ClusterIP, nil
}

// WaitReady waits until the agent records, has heard of everything from its sources, and has probes on the proxies' TLS.
func (a *Agent) WaitReady(ctx context.Context) error {
	var last string
	err := await.Until(ctx, func() bool {
		s, err := a.Status(ctx)
		last = fmt.Sprintf("%+v %+v %v", s.Topology, s.TLS, err)
		return err == nil && s.Recording && s.Kubernetes != nil && s.Kubernetes.Ready && s.Kubernetes.Connected && s.Topology.Connected && s.Topology.Addresses > 3 &&
			slices.ContainsFunc(s.TLS, func(b probe.Binary) bool { return b.Writes && strings.HasSuffix(b.Path, "/envoy") })
	})
	if err != nil {
		log, _ := os.ReadFile(a.Log()) //nolint:errcheck // then there is none
		return fmt.Errorf("wait for the agent: %w: %s: %s", err, last, log[:min(len(log), 2000)])
	}
	return nil
}

// WaitFollowed waits until the agent knows what these pods' proxies were told. It asks when it has seen a request at one.
func (a *Agent) WaitFollowed(ctx context.Context, pods []Pod) error {
	var last error
	err := await.Until(ctx, func() bool {
		return !slices.ContainsFunc(pods, func(p Pod) bool {
			rules, err := a.Routes(ctx, p.Namespace, p.Name)
			if err == nil && len(rules) == 0 {
				err = errors.New("no routes")
			}
			if err != nil {
				last = fmt.Errorf("pod %s: %w", p.Name, err)
			}
			return err != nil
		})
	})
	if err != nil {
		return fmt.Errorf("wait until the agent follows all proxies: %w: %w", err, last)
	}
	return nil
}

// Ask runs a command of meshwatch's that asks the agent, and returns what it says to people.
func (a *Agent) Ask(ctx context.Context, command ...string) (string, error) {
	out, err := exec.CommandContext(ctx, a.program, append(command, "--control", a.socket)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask the agent: %s: %w: %s", strings.Join(command, " "), err, out)
	}
	return string(out), nil
}

// Log is the file to which the agent writes journeys, and its log.
func (a *Agent) Log() string { return path("logs", a.node+"-"+agentName+".log") }

// Stop ends the agent in order, and waits for that: then all of its journeys are written.
func (a *Agent) Stop(ctx context.Context) error {
	return end(ctx, a.pid, a.node+"-"+agentName, syscall.SIGTERM)
}

// Journeys reads those that the agent has written so far, and nothing else of its log.
func (a *Agent) Journeys() iter.Seq2[*report.Line, error] {
	return func(yield func(*report.Line, error) bool) {
		f, err := os.Open(a.Log())
		if err != nil {
			yield(nil, fmt.Errorf("read journeys: %w", err))
			return
		}
		defer f.Close()
		in := bufio.NewReaderSize(f, 1<<20)
		for {
			text, err := in.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				return // one without its end is still being written
			}
			if err == nil && !bytes.HasPrefix(text, []byte(`{"schema":`)) {
				continue
			}
			var line *report.Line
			if err == nil {
				line, err = report.Decode(text)
			}
			if !yield(line, err) {
				return
			}
		}
	}
}
