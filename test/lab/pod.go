package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshwatch/meshwatch/test/await"
)

// Role says what a pod is to the mesh. The words are the topology's.
type Role string

// The roles.
const (
	RoleApp     Role = "app"
	RoleGateway Role = "gateway"
	RoleClient  Role = "client"
)

// The ports of the mesh; the proxies' are Istio's.
const (
	appPort      = 8080
	gatewayPort  = 8080
	outboundPort = 15001
	inboundPort  = 15006
)

// Pod is a network namespace on the node's bridge with what runs in it.
type Pod struct {
	Name    string     `json:"name"`
	Netns   string     `json:"netns"` // as under /run/netns
	Role    Role       `json:"role"`
	Sidecar bool       `json:"sidecar"`
	App     App        `json:"app,omitempty"`
	Calls   []string   `json:"calls,omitempty"` // upstreams of its app, the first is called by default
	V4      netip.Addr `json:"v4"`
	V6      netip.Addr `json:"v6"`
	Index   int        `json:"index"` // its addresses end in this plus firstHost
}

// Link is the name of the pod's link on the node.
func (p Pod) Link() string { return "veth-" + p.Name }

// host is the name by which requests ask for the pod's service.
func (p Pod) host() string { return p.Name + ".demo" }

// demoPods is the mesh that Up builds.
func demoPods() []Pod {
	return []Pod{
		{Name: "client", Role: RoleClient},
		{Name: "gateway", Role: RoleGateway},
		{Name: "frontend", Role: RoleApp, Sidecar: true, Calls: []string{"backend", "backend2"}},
		{Name: "backend", Role: RoleApp, Sidecar: true},
		{Name: "backend2", Role: RoleApp, Sidecar: true},
	}
}

// Pods are the pods there are now.
func (l *Lab) Pods() []Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.List)
}

// Pod finds a pod by name.
func (l *Lab) Pod(name string) (Pod, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.find(name); i >= 0 {
		return l.List[i], true
	}
	return Pod{}, false
}

func (l *Lab) find(name string) int {
	return slices.IndexFunc(l.List, func(p Pod) bool { return p.Name == name })
}

// NodeNetns is the name of the node's namespace.
func (l *Lab) NodeNetns() string { return l.netnsName("node") }

func (l *Lab) netnsName(pod string) string { return netnsPrefix + l.ID + "-" + pod }

// AddPod adds a pod with an app and no sidecar, and waits until the app takes connections: the client makes some, and sends
// nothing on them.
func (l *Lab) AddPod(ctx context.Context, name string) (Pod, error) {
	return l.AddApp(ctx, name, AppPlain)
}

// AddApp is AddPod with another kind of app. One that speaks TLS needs Options.TLS, which makes the authority that signs.
func (l *Lab) AddApp(ctx context.Context, name string, app App) (Pod, error) {
	p, err := l.newPod(name, app)
	if err != nil {
		return Pod{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	var dead error
	err = await.Until(ctx, func() bool {
		dead = l.checkProcesses()
		return dead != nil || l.listens(ctx, p)
	})
	if err := errors.Join(err, dead); err != nil {
		return p, fmt.Errorf("wait until pod %s takes connections: %w", name, err)
	}
	return p, nil
}

// newPod adds a pod and starts its app.
func (l *Lab) newPod(name string, app App) (Pod, error) {
	const maxName = 10 // with "veth-" a link's name of 15 characters
	if name == "" || len(name) > maxName {
		return Pod{}, fmt.Errorf("add pod %q: the name must have 1 to %d characters", name, maxName)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.find(name) >= 0 || name == "node" {
		return Pod{}, fmt.Errorf("add pod %s: there is one", name)
	}
	if app != AppPlain && !l.Options.TLS {
		return Pod{}, fmt.Errorf("add pod %s: app %s needs a certificate, and Options.TLS is off", name, app)
	}
	p, err := l.addPod(Pod{Name: name, Role: RoleApp, App: app}, l.freeIndex())
	if err != nil {
		return Pod{}, err
	}
	l.List = append(l.List, p)
	if app != AppPlain {
		if err := l.makeCertificate(p); err != nil {
			return p, err
		}
	}
	return p, errors.Join(l.save(), l.startApp(p))
}

func (l *Lab) freeIndex() int {
	i := 0
	for slices.ContainsFunc(l.List, func(p Pod) bool { return p.Index == i }) {
		i++
	}
	return i
}

// DeletePod ends the pod's processes and deletes its namespace.
func (l *Lab) DeletePod(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.find(name)
	if i < 0 {
		return fmt.Errorf("delete pod %s: there is none", name)
	}
	err := errors.Join(
		l.stopProcesses(func(p Process) bool { return p.Pod == name }),
		l.unplug(l.List[i]), // the kernel would remove the link, but not at once
		deleteNetns(l.List[i].Netns),
	)
	l.List = slices.Delete(l.List, i, i+1)
	return errors.Join(err, l.save())
}
