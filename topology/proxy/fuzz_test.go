package proxy

import (
	"net/netip"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Whatever a control plane sends and a client asks, there is an answer.
func FuzzLookup(f *testing.F) {
	bytes := func(m proto.Message, json string) []byte {
		b, err := proto.Marshal(read(f, m, json))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	l := bytes(&listener.Listener{}, `{"name":"l","address":{"socket_address":{"address":"0.0.0.0","port_value":80}},"filter_chains":[{"filters":[`+managerJSON(`"rds":{"route_config_name":"r"}`, "")+`]}]}`)
	for _, hosts := range []string{only(weighted), only(to("a", `"safe_regex":{"regex":"/a"},"headers":[{"name":"x","range_match":{"start":1}}],"query_parameters":[{"name":"q"}]`)), `{"domains":["*.a","a.*","b"]}`} {
		f.Add(l, bytes(&route.RouteConfiguration{}, `{"name":"r","virtual_hosts":[`+hosts+`]}`),
			bytes(&cluster.Cluster{}, `{"name":"outbound|80|v1|shop.demo.svc","type":"EDS"}`),
			bytes(&endpoint.ClusterLoadAssignment{}, `{"endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"10.0.0.1","port_value":80}}}}]}]}`), "b:80", "/a?q=1", "v", uint8(1))
	}
	f.Fuzz(func(t *testing.T, l, r, c, e []byte, authority, path, value string, bits uint8) {
		lm, rm, cm, em := &listener.Listener{}, &route.RouteConfiguration{}, &cluster.Cluster{}, &endpoint.ClusterLoadAssignment{}
		for b, m := range map[*[]byte]proto.Message{&l: lm, &r: rm, &c: cm, &e: em} {
			if proto.Unmarshal(*b, m) != nil {
				return
			}
		}
		one := NewCluster(cm)
		config := New(map[string]*Listener{"l": NewListener(lm)}, map[string]*Routes{rm.GetName(): NewRoutes(rm)}, map[string]*Cluster{one.Name: one},
			map[string]*Endpoints{one.Service(): NewEndpoints(em)})
		for _, local := range []netip.AddrPort{{}, addr("10.0.0.1:80"), addr("[::1]:80")} {
			for d := Outbound; d <= Gateway; d++ {
				config.Lookup(&Request{Direction: d, Local: local, TLS: bits&1 > 0, SNI: value, Protocol: "http/1.1", Authority: authority, Method: "GET", Path: path, NoQuery: bits&2 > 0,
					Header: func(string) (string, Presence) { return value, Presence(bits >> 2 % 3) }, Upstream: local})
			}
		}
	})
}

// The same for what JSON can say: fuzzing bytes rarely gets far.
func FuzzRoutes(f *testing.F) {
	f.Add(only(weighted), "shop", "/")
	f.Add(only(to("r", `"safe_regex":{"regex":"/a+"},"headers":[{"name":"x","invert_match":true}]`)), "shop:80", "/a")
	f.Add(`{"domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"weighted_clusters":{}}},{"route":{}},{}]}`, "", "")
	f.Fuzz(func(t *testing.T, hosts, authority, path string) {
		r := &route.RouteConfiguration{}
		if protojson.Unmarshal([]byte(`{"name":"r","virtual_hosts":[`+hosts+`]}`), r) != nil {
			return
		}
		l := read(t, &listener.Listener{}, `{"address":{"socket_address":{"address":"0.0.0.0","port_value":80}},"filter_chains":[{"filters":[`+managerJSON(`"rds":{"route_config_name":"r"}`, "")+`]}]}`)
		c := New(map[string]*Listener{"l": NewListener(l)}, map[string]*Routes{"r": NewRoutes(r)}, nil, nil)
		for _, upstream := range []netip.AddrPort{{}, addr("10.0.0.1:80")} {
			q := get(authority, path)
			q.Upstream = upstream
			c.Lookup(q)
			q.Header, q.NoQuery = nil, true
			c.Lookup(q)
		}
	})
}
