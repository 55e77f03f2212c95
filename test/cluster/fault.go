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

// Lift ends a fault. It may be called more than once. What the fault stopped takes a moment to be ready again: see WaitReady.
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
		return lift, errors.Join(fmt.Errorf("stop istiod: %w", err), lift(context.WithoutCancel(ctx)))
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
		ctx, cancel := context.WithTimeout(ctx, partWithin)
		defer cancel()
		if err := write(filepath.Join(dir, "cgroup.freeze"), value); err != nil {
			return fmt.Errorf("freeze pod %s: %w", p.Name, err)
		}
		err := await.Until(ctx, func() bool {
			events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
			return err != nil || strings.Contains(string(events), "frozen "+value)
		})
		if err != nil {
			return fmt.Errorf("freeze pod %s: cgroup.freeze is %s and takes no effect: %w", p.Name, value, err)
		}
		return nil
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

// ExpireToken replaces a token that the kubelet has mounted into a pod, by its file name there, by one that has expired. The
// kubelet would put a fresh one back within seconds: until the fault is lifted it writes to another directory, which only the
// node sees in the place of the pod's. Lifting the fault puts the old token back.
func (c *Cluster) ExpireToken(ctx context.Context, p Pod, name, account, audience string) (Lift, error) {
	expired, err := c.Token(ctx, p.Namespace, account, audience, -time.Minute)
	if err != nil {
		return nil, err
	}
	lift, err := c.replaceToken(ctx, p, name, []byte(expired))
	if err != nil {
		return nil, fmt.Errorf("expire token of pod %s: %w", p.Name, err)
	}
	return lift, nil
}

func (c *Cluster) replaceToken(ctx context.Context, p Pod, name string, token []byte) (Lift, error) {
	file, err := p.tokenFile(name)
	if err != nil {
		return nil, err
	}
	node, err := nodeNumber(p.Node)
	if err != nil {
		return nil, err
	}
	pods, err := os.OpenRoot(filepath.Dir(file)) // the pod's directory, whatever is mounted over it
	if err != nil {
		return nil, err
	}
	defer pods.Close()
	old, err := pods.ReadFile(name)
	if err != nil {
		return nil, err
	}
	_, dir, _ := strings.Cut(filepath.Dir(file), "/root") // of a process in the node
	if _, err := c.Run(ctx, node, "mount", "--types=tmpfs", "tmpfs", dir); err != nil {
		return nil, err
	}
	lifted := false
	lift := func(ctx context.Context) error {
		if lifted {
			return nil
		}
		if _, err := c.Run(ctx, node, "umount", dir); err != nil {
			return fmt.Errorf("put back the token of pod %s: %w", p.Name, err)
		}
		lifted = true
		return os.WriteFile(file, old, 0o644)
	}
	if err := pods.WriteFile(name, token, 0o644); err != nil {
		return nil, errors.Join(err, lift(context.WithoutCancel(ctx)))
	}
	return lift, nil
}

// StopAPIServer ends the API server's process as a crash would. Nobody starts it again until the fault is lifted.
func (c *Cluster) StopAPIServer(ctx context.Context) (Lift, error) {
	const name = "apiserver"
	pid, err := processOf(nodeName(1) + "-" + name)
	if err != nil {
		return nil, err
	}
	lifted := false
	lift := func(ctx context.Context) error {
		if lifted {
			return nil
		}
		lifted = true
		if err := c.serve(1, name, c.apiserverLine()...); err != nil {
			return err
		}
		return c.waitAPI(ctx)
	}
	if err := end(ctx, pid, nodeName(1)+"-"+name, os.Kill); err != nil {
		return lift, errors.Join(err, lift(context.WithoutCancel(ctx)))
	}
	return lift, nil
}
