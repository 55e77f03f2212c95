package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/meshwatch/meshwatch/test/nets"
	"github.com/meshwatch/meshwatch/test/wire"
)

// Pod is a pod of the cluster, as far as the lab needs it.
type Pod struct {
	Namespace, Name, UID, Node string
	IP                         netip.Addr
	Labels                     map[string]string
	Ready                      bool
	Containers                 []string // also those that start before the others and stay, as sidecars do
}

// podList is what the API says of pods.
type podList struct {
	Items []struct {
		Metadata struct {
			Namespace, Name, UID string
			Labels               map[string]string
			DeletionTimestamp    string
		}
		Spec struct {
			NodeName                   string
			InitContainers, Containers []struct{ Name, RestartPolicy string }
		}
		Status struct {
			PodIP      string
			Conditions []struct{ Type, Status string }
		}
	}
}

// Pods are those of a namespace that a label selector chooses; without a selector all. Pods that are being deleted are left out.
func (c *Cluster) Pods(ctx context.Context, namespace, selector string) ([]Pod, error) {
	var list podList
	if err := c.Get(ctx, &list, "pods", "--namespace="+namespace, "--selector="+selector); err != nil {
		return nil, err
	}
	var pods []Pod
	for _, item := range list.Items {
		if item.Metadata.DeletionTimestamp != "" {
			continue
		}
		p := Pod{Namespace: item.Metadata.Namespace, Name: item.Metadata.Name, UID: item.Metadata.UID,
			Node: item.Spec.NodeName, Labels: item.Metadata.Labels}
		p.IP, _ = netip.ParseAddr(item.Status.PodIP) //nolint:errcheck // it has none yet
		for _, cond := range item.Status.Conditions {
			p.Ready = p.Ready || cond.Type == "Ready" && cond.Status == "True"
		}
		for _, container := range item.Spec.InitContainers {
			if container.RestartPolicy == "Always" {
				p.Containers = append(p.Containers, container.Name)
			}
		}
		for _, container := range item.Spec.Containers {
			p.Containers = append(p.Containers, container.Name)
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// Pod is the only pod that a selector chooses.
func (c *Cluster) Pod(ctx context.Context, namespace, selector string) (Pod, error) {
	pods, err := c.Pods(ctx, namespace, selector)
	if err != nil {
		return Pod{}, err
	}
	if len(pods) != 1 {
		return Pod{}, fmt.Errorf("find pod %s in %s: there are %d", selector, namespace, len(pods))
	}
	return pods[0], nil
}

// cgroup is the pod's in the machine's cgroup v2 tree, wherever its node's layout puts it.
func (p Pod) cgroup() (string, error) {
	trees, err := hierarchies()
	if err != nil {
		return "", err
	}
	root := filepath.Join(trees.v2, cgroupRoot, p.Node)
	for _, pattern := range []string{
		"kubepods/pod" + p.UID, "kubepods/*/pod" + p.UID,
		"kubepods.slice/*-pod" + strings.ReplaceAll(p.UID, "-", "_") + ".slice",
		"kubepods.slice/*/*-pod" + strings.ReplaceAll(p.UID, "-", "_") + ".slice",
	} {
		found, _ := filepath.Glob(filepath.Join(root, pattern)) //nolint:errcheck // the pattern is right
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("find the cgroup of pod %s: it has none below %s: is it running?", p.Name, root)
}

// Processes are the pod's, by the machine's process ids.
func (p Pod) Processes() ([]int, error) {
	dir, err := p.cgroup()
	if err != nil {
		return nil, err
	}
	return members(dir), nil
}

// Process finds the pod's process that runs a program, by its base name.
func (p Pod) Process(program string) (int, error) {
	pids, err := p.Processes()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(exe) == program {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("find %s in pod %s: it does not run there", program, p.Name)
}

// Netns is the pod's network namespace as a file that setns takes, until the pod ends.
func (p Pod) Netns() (string, error) {
	pid, err := p.anyProcess()
	return fmt.Sprintf("/proc/%d/ns/net", pid), err
}

func (p Pod) anyProcess() (int, error) {
	pids, err := p.Processes()
	if err == nil && len(pids) == 0 {
		err = fmt.Errorf("find a process of pod %s: there is none", p.Name)
	}
	if err != nil {
		return 0, err
	}
	return pids[0], nil
}

// Client sends requests as the pod's app does: from its namespace, through its sidecar. Names are not looked up there: URLs
// have addresses, and the Host header a service's name.
func (p Pod) Client() *http.Client {
	return &http.Client{Timeout: clientWithin, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			pid, err := p.anyProcess()
			if err != nil {
				return nil, err
			}
			return dialFrom(ctx, pid, address)
		},
	}}
}

// Link is the node's end of the pod's veth: its name and index in the node's namespace.
func (p Pod) Link() (name string, index int, err error) {
	pid, err := p.anyProcess()
	if err != nil {
		return "", 0, err
	}
	err = nets.OfProcess(pid).Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			index = eth0.Attrs().ParentIndex
		}
		return err
	})
	if err != nil {
		return "", 0, fmt.Errorf("find the link of pod %s: %w", p.Name, err)
	}
	node, err := nodeNumber(p.Node)
	if err != nil {
		return "", 0, err
	}
	err = inNode(node, func(h *netlink.Handle) error {
		link, err := h.LinkByIndex(index)
		if err == nil {
			name = link.Attrs().Name
		}
		return err
	})
	return name, index, err
}

// Log is what a container of the pod printed, also before it was started again. It is read where the kubelet has it: it is
// complete at once, and reading costs the cluster nothing.
func (p Pod) Log(container string) ([]byte, error) {
	files, err := p.logFiles(container)
	var all []byte
	for _, f := range files {
		text, e := os.ReadFile(f)
		all, err = append(all, text...), errors.Join(err, e)
	}
	return all, err
}

func (p Pod) logFiles(container string) ([]string, error) {
	files, _ := filepath.Glob(path(p.Node, "pods", p.Namespace+"_"+p.Name+"_"+p.UID, container, "*.log")) //nolint:errcheck // the pattern is right
	if len(files) == 0 {
		return nil, fmt.Errorf("read the log of pod %s: container %s has none", p.Name, container)
	}
	return files, nil
}

// Capture begins to record what passes the node's end of a pod's link.
func (c *Cluster) Capture(p Pod) (*wire.Capture, error) {
	_, index, err := p.Link()
	if err != nil {
		return nil, err
	}
	node, err := nodeNumber(p.Node)
	if err != nil {
		return nil, err
	}
	pid, err := keeper(node)
	if err != nil {
		return nil, err
	}
	return wire.Start(nets.OfProcess(pid), index)
}
