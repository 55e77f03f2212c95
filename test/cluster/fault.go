package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
)

// Lift ends a fault, and waits until the cluster is whole again. It may be called more than once.
type Lift func(context.Context) error

// StopIstiod takes istiod away: its pod is killed and none takes its place until the fault is lifted.
func (c *Cluster) StopIstiod(ctx context.Context) (Lift, error) {
	const istiod = "deployment/istiod"
	lift := func(ctx context.Context) error {
		if _, err := c.Kubectl(ctx, nil, "--namespace=istio-system", "scale", istiod, "--replicas=1"); err != nil {
			return err
		}
		return c.WaitRollout(ctx, "istio-system", istiod)
	}
	_, err := c.Kubectl(ctx, nil, "--namespace=istio-system", "scale", istiod, "--replicas=0")
	if err == nil {
		_, err = c.Kubectl(ctx, nil, "--namespace=istio-system", "delete", "pods", "--selector=app=istiod", "--grace-period=1", "--ignore-not-found", "--wait")
	}
	if err != nil {
		return lift, errors.Join(fmt.Errorf("stop istiod: %w", err), lift(ctx))
	}
	return lift, nil
}

// KillIstiod ends istiod's process as a crash would. The kubelet starts it again by itself.
func (c *Cluster) KillIstiod(ctx context.Context) error {
	p, err := c.Pod(ctx, "istio-system", "app=istiod")
	if err != nil {
		return err
	}
	pid, err := p.Process("pilot-discovery")
	if err != nil {
		return err
	}
	proc, err := os.FindProcess(pid) // holds a pidfd: not another process's by then
	if err != nil {
		return fmt.Errorf("kill istiod: %w", err)
	}
	defer func() { _ = proc.Release() }()
	if err := proc.Kill(); err != nil {
		return fmt.Errorf("kill istiod: %w", err)
	}
	return nil
}

// Freeze stops all processes of a pod where they are. Connections to it stay open and get no answer.
func (c *Cluster) Freeze(ctx context.Context, p Pod) (Lift, error) {
	dir, err := p.cgroup()
	if err != nil {
		return nil, err
	}
	set := func(ctx context.Context, value string) error {
		if err := write(filepath.Join(dir, "cgroup.freeze"), value); err != nil {
			return fmt.Errorf("freeze pod %s: %w", p.Name, err)
		}
		return await.Until(ctx, func() bool {
			events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
			return err != nil || strings.Contains(string(events), "frozen "+value)
		})
	}
	lift := func(ctx context.Context) error { return set(ctx, "0") }
	if err := set(ctx, "1"); err != nil {
		return lift, errors.Join(err, lift(context.WithoutCancel(ctx)))
	}
	return lift, nil
}

// Drain moves all pods off a node, and lets none come until the fault is lifted. Pods that are bound to the node wait.
func (c *Cluster) Drain(ctx context.Context, node int) (Lift, error) {
	lift := func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, nil, "uncordon", nodeName(node))
		return err
	}
	_, err := c.Kubectl(ctx, nil, "drain", nodeName(node), "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")
	if err != nil {
		return lift, errors.Join(fmt.Errorf("drain node %d: %w", node, err), lift(context.WithoutCancel(ctx)))
	}
	return lift, nil
}

// ExpireToken replaces a token that the kubelet has mounted into a pod, by its file name there, by one that has expired.
// Lifting the fault puts the old one back; the kubelet does so, too, when it next looks at the pod's volumes (about a minute).
func (c *Cluster) ExpireToken(ctx context.Context, p Pod, name, account, audience string) (Lift, error) {
	expired, err := c.Token(ctx, p.Namespace, account, audience, -time.Minute)
	if err != nil {
		return nil, err
	}
	file, err := p.tokenFile(name)
	if err != nil {
		return nil, err
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("expire token of pod %s: %w", p.Name, err)
	}
	if err := os.WriteFile(file, []byte(expired), 0o644); err != nil {
		return nil, fmt.Errorf("expire token of pod %s: %w", p.Name, err)
	}
	return func(context.Context) error {
		if err := os.WriteFile(file, old, 0o644); err != nil {
			return fmt.Errorf("put back the token of pod %s: %w", p.Name, err)
		}
		return nil
	}, nil
}
