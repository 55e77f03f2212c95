package topology

import "testing"

func TestPeerRules(t *testing.T) {
	policy := func(namespace, name, mode string, selector map[string]string, ports map[uint16]string) Resource {
		return Resource{Ref: Ref{"PeerAuthentication", namespace, name}, TLS: mode, Selector: selector, PortTLS: ports}
	}
	app := map[string]string{"app": "a"}
	mesh, space := policy(RootNamespace, "mesh", "STRICT", nil, nil), policy("demo", "all", "PERMISSIVE", nil, nil)
	own := policy("demo", "a", "STRICT", app, map[uint16]string{9090: "DISABLE", 9091: "UNSET"})
	for name, tt := range map[string]struct {
		resources []Resource
		labels    map[string]string
		port      uint16
		mode, by  string
	}{
		"none":                        {nil, app, 80, "PERMISSIVE", ""},
		"the mesh's":                  {[]Resource{mesh}, app, 80, "STRICT", "mesh"},
		"the namespace's":             {[]Resource{mesh, space}, app, 80, "PERMISSIVE", "all"},
		"its own":                     {[]Resource{mesh, space, own}, app, 80, "STRICT", "a"},
		"its own, another port":       {[]Resource{mesh, space, own}, app, 9090, "DISABLE", "a"},
		"its own, a port unset":       {[]Resource{mesh, space, own}, app, 9091, "STRICT", "a"},
		"its own, the port not known": {[]Resource{mesh, space, own}, app, 0, "", "a"},
		"another's":                   {[]Resource{mesh, own}, map[string]string{"app": "b"}, 80, "STRICT", "mesh"},
		"labels not known":            {[]Resource{space, own}, nil, 80, "", "a"},
		"labels not known, a port":    {[]Resource{mesh, own}, nil, 9090, "", "mesh"},
		"labels not known, nor there": {[]Resource{mesh, own}, map[string]string{}, 80, "STRICT", "mesh"},
		"whatever the labels are":     {[]Resource{mesh, own}, nil, 80, "STRICT", "a"},
		"nobody may say STRICT":       {[]Resource{space, policy("demo", "d", "DISABLE", app, nil)}, nil, 80, "", ""},
		"labels not needed":           {[]Resource{mesh, space}, nil, 80, "PERMISSIVE", "all"},
		"unset, so the mesh's":        {[]Resource{mesh, policy("demo", "u", "UNSET", nil, nil)}, app, 80, "STRICT", "mesh"},
		"a port without a selector":   {[]Resource{policy("demo", "p", "STRICT", nil, map[uint16]string{80: "DISABLE"})}, app, 80, "STRICT", "p"},
		"two that differ":             {[]Resource{space, policy("demo", "other", "STRICT", nil, nil)}, app, 80, "", "other"},
		"two that come to the same":   {[]Resource{mesh, policy("demo", "u", "UNSET", nil, nil), policy("demo", "v", "STRICT", nil, nil)}, app, 80, "STRICT", "mesh"},
		"a selector in the root":      {[]Resource{policy(RootNamespace, "s", "STRICT", app, nil)}, app, 80, "PERMISSIVE", ""},
		"of another kind":             {[]Resource{{Ref: Ref{"DestinationRule", RootNamespace, "d"}, TLS: "STRICT"}}, app, 80, "PERMISSIVE", ""},
	} {
		b := NewBuilder("", 0)
		for _, r := range tt.resources {
			b.SetResource(r)
		}
		mode, by := b.Store(1).PeerRules().Mode(&Entry{Workload: Workload{Namespace: "demo"}, Labels: tt.labels}, tt.port)
		if mode != tt.mode || by.Name != tt.by {
			t.Errorf("%s: %q by %q, want %q by %q", name, mode, by.Name, tt.mode, tt.by)
		}
	}
	b := NewBuilder("", 0)
	b.SetResource(policy(RootNamespace, "s", "STRICT", app, nil))
	if mode, _ := b.Store(1).PeerRules().Mode(&Entry{Workload: Workload{Namespace: RootNamespace}, Labels: app}, 80); mode != ModePermissive {
		t.Errorf("one with a selector counts in the root namespace: %q", mode)
	}
}
