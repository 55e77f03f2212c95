package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/meshwatch/meshwatch/test/nets"
)

// InPod starts a program in a pod, as root, until Stop or until the lab is taken down.
func (l *Lab) InPod(pod, name, path string, args ...string) (Process, error) {
	p, ok := l.Pod(pod)
	if !ok {
		return Process{}, fmt.Errorf("start %s: there is no pod %s", name, pod)
	}
	cmd, proc, err := l.start(program{pod: p, kind: name, path: path, args: args})
	if err != nil {
		return proc, err
	}
	l.children.Go(func() { _ = cmd.Wait() }) // its end is seen by Running
	return proc, nil
}

// Command runs a program in a pod to its end, as root, and returns what it wrote to both outputs.
func (l *Lab) Command(ctx context.Context, pod, path string, args ...string) ([]byte, error) {
	p, ok := l.Pod(pod)
	if !ok {
		return nil, fmt.Errorf("run %s: there is no pod %s", path, pod)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.spawner().start(p.Netns, cmd); err != nil {
		return nil, fmt.Errorf("run %s: %w", path, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("run %s: %w", path, err)
	}
	return out.Bytes(), nil
}

// Stop ends a process of the lab and forgets it.
func (l *Lab) Stop(p Process) error {
	return l.stopProcesses(func(q Process) bool { return q.PID == p.PID && q.Start == p.Start })
}

// AddIdle adds n pods in which nothing happens: a namespace each, with a link on the node's bridge and one process, but without an
// address. They are not among Pods, and go with the lab.
func (l *Lab) AddIdle(n int) error {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		return fmt.Errorf("add idle pods: %w", err)
	}
	for i := range n {
		p := Pod{Name: fmt.Sprintf("idle%d", i)}
		p.Netns = l.netnsName(p.Name)
		if err := l.addIdle(p); err != nil {
			return fmt.Errorf("add %s: %w", p.Name, err)
		}
		if err := l.serve(program{pod: p, kind: "sleep", uid: appUID, path: sleep, args: []string{"1d"}}); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) addIdle(p Pod) error {
	if err := addNetns(p.Netns); err != nil {
		return err
	}
	pod, err := netns.GetFromName(p.Netns)
	if err != nil {
		return err
	}
	defer pod.Close()
	err = nets.Named(l.NodeNetns()).Netlink(func(h *netlink.Handle) error {
		bridge, err := h.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = p.Link(), bridge.Attrs().Index
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod)}); err != nil {
			return err
		}
		return nets.Up(h, p.Link())
	})
	if err != nil {
		return err
	}
	return nets.Named(p.Netns).Netlink(func(h *netlink.Handle) error { return errors.Join(nets.Up(h, "lo"), nets.Up(h, "eth0")) })
}
