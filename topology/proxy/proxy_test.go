package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3" // a filter that may change requests
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// read is a message of its JSON.
func read[M proto.Message](t testing.TB, m M, json string) M {
	t.Helper()
	if err := protojson.Unmarshal([]byte(json), m); err != nil {
		t.Fatalf("%v: %s", err, json)
	}
	return m
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// manager is a filter with routes; more are its other fields.
func managerJSON(routes, more string) string {
	return `{"name":"http","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix":"x",` + routes + more + `}}`
}

const tcpJSON = `{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"x","cluster":"PassthroughCluster"}}`

// gateway is a proxy with one listener at port 80, whose routes are these virtual hosts.
func gateway(t testing.TB, hosts, routesMore, managerMore string) *Config {
	t.Helper()
	l := read(t, &listener.Listener{}, `{"name":"l","address":{"socket_address":{"address":"0.0.0.0","port_value":80}},
		"filter_chains":[{"filters":[`+managerJSON(`"rds":{"route_config_name":"r"}`, managerMore)+`]}]}`)
	r := read(t, &route.RouteConfiguration{}, `{"name":"r"`+routesMore+`,"virtual_hosts":[`+hosts+`]}`)
	clusters, endpoints := map[string]*Cluster{}, map[string]*Endpoints{}
	for subset, ip := range map[string]string{"v1": "10.0.0.1", "v2": "10.0.0.2"} {
		name := "outbound|80|" + subset + "|shop.demo.svc"
		clusters[name] = NewCluster(read(t, &cluster.Cluster{}, `{"name":"`+name+`","type":"EDS","metadata":{"filter_metadata":{"istio":{
			"config":"/apis/networking.istio.io/v1/namespaces/demo/destination-rule/shop"}}}}`))
		endpoints[name] = NewEndpoints(read(t, &endpoint.ClusterLoadAssignment{}, `{"cluster_name":"`+name+`","endpoints":[{"lb_endpoints":[
			{"endpoint":{"address":{"socket_address":{"address":"`+ip+`","port_value":8080}}}},
			{"endpoint":{"address":{"socket_address":{"address":"10.0.0.9","port_value":8080}}}}]}]}`))
	}
	return New(map[string]*Listener{"l": NewListener(l)}, map[string]*Routes{"r": NewRoutes(r)}, clusters, endpoints)
}

// only is a virtual host for everything, with these routes.
func only(routes string) string { return `{"name":"h","domains":["*"],"routes":[` + routes + `]}` }

// to is a route by its name and match.
func to(name, match string) string {
	return `{"name":"` + name + `","match":{` + match + `},"route":{"cluster":"` + name + `"}}`
}

// get is a request to the gateway.
func get(authority, path string) *Request {
	return &Request{Direction: Gateway, Local: addr("10.0.0.8:80"), Protocol: "http/1.1", Authority: authority, Method: "GET", Path: path,
		Header: func(string) (string, Presence) { return "", Absent }}
}

// said is an answer in short: the route's name, or why there is none.
func said(a Answer) string {
	if a.Route == nil || a.Route.Name == "" {
		return "-" + string(a.Why)
	}
	return a.Route.Name
}

func TestPaths(t *testing.T) {
	for _, c := range []struct{ match, path, want string }{
		{`"prefix":"/"`, "/x", "r"},
		{`"prefix":"/a"`, "/ab?c", "r"},
		{`"prefix":"/a"`, "/b/a", "-no-match"},
		{`"prefix":"/a?x"`, "/a?x", "-no-match"}, // the query is not part of the path
		{`"prefix":"/A"`, "/a", "-no-match"},
		{`"prefix":"/A","case_sensitive":false`, "/ab", "r"},
		{`"path":"/a"`, "/a?b#c", "r"},
		{`"path":"/a"`, "/a/", "-no-match"},
		{`"path":"/a","case_sensitive":false`, "/A", "r"},
		{`"path_separated_prefix":"/a"`, "/a", "r"},
		{`"path_separated_prefix":"/a"`, "/a/b", "r"},
		{`"path_separated_prefix":"/a"`, "/ab", "-no-match"},
		{`"safe_regex":{"regex":"/a+"}`, "/aa?x", "r"},
		{`"safe_regex":{"regex":"/a+"}`, "/aab", "-no-match"}, // all of it must match
		{`"safe_regex":{"regex":"/a|/b"}`, "/b", "r"},
		{`"safe_regex":{"regex":"/(a"}`, "/a", "-condition"},
		{`"safe_regex":{"regex":"/\\C"}`, "/a", "-condition"}, // RE2 knows it, Go does not
		{`"safe_regex":{"regex":"/.."}`, "/é", "-condition"},
		{`"connect_matcher":{}`, "/", "-no-match"},
		{`"prefix":"/"`, "*", "-path"},
		{`"prefix":"/"`, "http://shop/x", "-path"},
	} {
		if got := said(gateway(t, only(to("r", c.match)), "", "").Lookup(get("shop", c.path))); got != c.want {
			t.Errorf("{%s} %s: %s, want %s", c.match, c.path, got, c.want)
		}
	}
}

func TestNormalPaths(t *testing.T) {
	for path, want := range map[string]string{"/a/b": "r", "/a//b": "-path", "/a/../b": "-path", "/a%2fb": "-path", `/a\b`: "-path", "/a.b": "r", "/a/.b": "-path", "/a?%2f//..": "r"} {
		if got := said(gateway(t, only(to("r", `"prefix":"/"`)), "", `,"normalize_path":true`).Lookup(get("shop", path))); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// The first route that matches, in order; and what is not known makes only unsure what depends on it.
func TestOrder(t *testing.T) {
	c := gateway(t, only(strings.Join([]string{
		to("a", `"prefix":"/a"`),
		to("b", `"prefix":"/b","headers":[{"name":"X-V","string_match":{"exact":"2"}}]`),
		to("c", `"prefix":"/"`),
	}, ",")), "", "")
	known := map[string]string{}
	for _, want := range []struct {
		path, v string
		is      Presence
		want    string
	}{
		{"/a", "", Unknown, "a"}, {"/c", "", Unknown, "c"}, {"/b", "2", Present, "b"}, {"/b", "1", Present, "c"}, {"/b", "", Absent, "c"}, {"/b", "", Unknown, "-condition"},
	} {
		r := get("shop", want.path)
		r.Header = func(name string) (string, Presence) { known[name] = want.v; return want.v, want.is }
		if got := said(c.Lookup(r)); got != want.want {
			t.Errorf("%+v: %s", want, got)
		}
	}
	if len(known) != 1 || known["x-v"] != "" {
		t.Errorf("asked for %v", known)
	}
	r := get("shop", "/b")
	r.Header = nil
	if a := c.Lookup(r); said(a) != "-condition" || a.Route.VirtualHost != "h" {
		t.Errorf("no headers are known: %s, %+v", said(a), a.Route)
	}
}

func TestHosts(t *testing.T) {
	host := func(name string, domains ...string) string {
		return `{"name":"` + name + `","domains":["` + strings.Join(domains, `","`) + `"],"routes":[` + to(name, `"prefix":"/"`) + `]}`
	}
	hosts := strings.Join([]string{
		host("exact", "shop.example", "shop.example:8080"), host("end", "*.example"), host("longer", "*-x.example"),
		host("begin", "shop.*"), host("any", "*"), host("v6", "[::1]"),
	}, ",")
	for _, c := range []struct{ more, managerMore, authority, want string }{
		{"", "", "shop.example", "exact"},
		{"", "", "SHOP.Example", "exact"},
		{"", "", "shop.example:8080", "exact"},
		{"", "", "shop.example:81", "begin"}, // the port is part of the name
		{"", "", "a.example", "end"},
		{"", "", ".example", "any"}, // a wildcard is something
		{"", "", "a-x.example", "longer"},
		{"", "", "shop.test", "begin"},
		{"", "", "shop.", "any"},
		{"", "", "other", "any"},
		{"", "", "", "-path"},
		{`,"ignore_port_in_host_matching":true`, "", "shop.example:81", "exact"},
		{`,"ignore_port_in_host_matching":true`, "", "[::1]:81", "v6"},
		{`,"ignore_port_in_host_matching":true`, "", "[::1]", "v6"},
		{"", `,"strip_any_host_port":true`, "shop.example:81", "exact"},
		{"", `,"strip_matching_host_port":true`, "shop.example:80", "exact"},
		{"", `,"strip_matching_host_port":true`, "shop.example:81", "begin"},
		{"", `,"strip_trailing_host_dot":true`, "shop.example.", "exact"},
		{`,"vhost_header":"x-host"`, "", "shop.example", "-condition"},
	} {
		if got := said(gateway(t, hosts, c.more, c.managerMore).Lookup(get(c.authority, "/"))); got != c.want {
			t.Errorf("%q%s%s: %s, want %s", c.authority, c.more, c.managerMore, got, c.want)
		}
	}
}

func TestConditions(t *testing.T) {
	head := func(m string) string { return `"prefix":"/","headers":[{"name":"x",` + m + `}]` }
	query := func(m string) string { return `"prefix":"/","query_parameters":[{"name":"q"` + m + `}]` }
	for _, c := range []struct{ match, value, path, want string }{ // value "-": there is none
		{head(`"string_match":{"exact":"a"}`), "a", "/", "r"},
		{head(`"string_match":{"exact":"a"}`), "A", "/", "-no-match"},
		{head(`"string_match":{"exact":"a","ignore_case":true}`), "A", "/", "r"},
		{head(`"string_match":{"exact":"a"}`), "-", "/", "-no-match"},
		{head(`"string_match":{"exact":"a"},"invert_match":true`), "b", "/", "r"},
		{head(`"string_match":{"exact":"a"},"invert_match":true`), "-", "/", "-no-match"}, // Envoy: what is missing matches nothing
		{head(`"string_match":{"exact":"a"},"invert_match":true,"treat_missing_header_as_empty":true`), "-", "/", "r"},
		{head(`"string_match":{"prefix":"a"}`), "ab", "/", "r"},
		{head(`"string_match":{"suffix":"b"}`), "ab", "/", "r"},
		{head(`"string_match":{"contains":"b"}`), "abc", "/", "r"},
		{head(`"string_match":{"safe_regex":{"regex":"a.c"}}`), "abc", "/", "r"},
		{head(`"string_match":{"safe_regex":{"regex":"a.c"}}`), "abcd", "/", "-no-match"},
		{head(`"string_match":{"safe_regex":{"regex":"["}}`), "a", "/", "-condition"},
		{head(`"string_match":{"safe_regex":{"regex":"["}},"invert_match":true`), "a", "/", "-condition"},
		{head(`"exact_match":"a"`), "a", "/", "r"},
		{head(`"exact_match":""`), "a", "/", "r"}, // any value
		{head(`"prefix_match":"a"`), "ab", "/", "r"},
		{head(`"suffix_match":"b"`), "ab", "/", "r"},
		{head(`"contains_match":"b"`), "abc", "/", "r"},
		{head(`"safe_regex_match":{"regex":"a+"}`), "aa", "/", "r"},
		{head(`"range_match":{"start":1,"end":3}`), "2", "/", "r"},
		{head(`"range_match":{"start":1,"end":3}`), "3", "/", "-no-match"},
		{head(`"range_match":{"start":1,"end":3}`), "x", "/", "-no-match"},
		{head(`"present_match":true`), "a", "/", "r"},
		{head(`"present_match":true`), "-", "/", "-no-match"},
		{head(`"present_match":false`), "a", "/", "-no-match"},
		{head(`"present_match":false`), "-", "/", "r"},
		{head(`"present_match":true,"invert_match":true`), "-", "/", "r"},
		{head(`"present_match":true,"invert_match":true`), "a", "/", "-no-match"},
		{`"prefix":"/","headers":[{"name":":method","string_match":{"exact":"GET"}}]`, "-", "/", "r"},
		{`"prefix":"/","headers":[{"name":":method","string_match":{"exact":"PUT"}}]`, "-", "/", "-no-match"},
		{`"prefix":"/","headers":[{"name":":authority","string_match":{"exact":"shop"}}]`, "-", "/", "r"},
		{`"prefix":"/","headers":[{"name":":scheme","string_match":{"exact":"http"}}]`, "-", "/", "-condition"},
		{`"prefix":"/","headers":[{"name":"x-forwarded-proto","string_match":{"exact":"http"}}]`, "-", "/", "-condition"}, // the proxy writes it
		{query(`,"string_match":{"exact":"1"}`), "-", "/?a=2&q=1", "r"},
		{query(`,"string_match":{"exact":"1"}`), "-", "/?q=2&q=1", "-no-match"}, // the first counts
		{query(`,"string_match":{"exact":"1"}`), "-", "/", "-no-match"},
		{query(`,"string_match":{"exact":"1"}`), "-", "/?q=%31", "-condition"},
		{query(`,"present_match":true`), "-", "/?q", "r"},
		{query(``), "-", "/?x=1", "-no-match"},
		{`"prefix":"/","grpc":{}`, "-", "/", "-no-match"},
		{`"prefix":"/","tls_context":{"presented":true}`, "-", "/", "-condition"},
		{`"prefix":"/","runtime_fraction":{"default_value":{"numerator":100}}`, "-", "/", "r"},
		{`"prefix":"/","runtime_fraction":{"default_value":{"numerator":0}}`, "-", "/", "-no-match"},
		{`"prefix":"/","runtime_fraction":{"default_value":{"numerator":999999,"denominator":"MILLION"}}`, "-", "/", "-condition"},
		{`"prefix":"/x","runtime_fraction":{"default_value":{"numerator":5}}`, "-", "/", "-no-match"},
	} {
		r := get("shop", c.path)
		r.Header = func(name string) (string, Presence) {
			if c.value == "-" || name != "x" {
				return "", Absent
			}
			return c.value, Present
		}
		if got := said(gateway(t, only(to("r", c.match)), "", "").Lookup(r)); got != c.want {
			t.Errorf("{%s} x: %s, %s: %s, want %s", c.match, c.value, c.path, got, c.want)
		}
	}
	r := get("shop", "/")
	r.NoQuery = true
	if got := said(gateway(t, only(to("r", query(``))), "", "").Lookup(r)); got != "-condition" {
		t.Errorf("the query is not known: %s", got)
	}
}

const weighted = `{"name":"split","match":{"prefix":"/"},"metadata":{"filter_metadata":{"istio":{"config":"/apis/networking.istio.io/v1/namespaces/demo/virtual-service/shop"}}},
	"route":{"weighted_clusters":{"clusters":[{"name":"outbound|80|v1|shop.demo.svc","weight":50},{"name":"outbound|80|v2|shop.demo.svc","weight":50},{"name":"gone","weight":0}]}}}`

func TestClusters(t *testing.T) {
	const v1 = `{"name":"one","match":{"prefix":"/"},"route":{"cluster":"outbound|80|v1|shop.demo.svc"}}`
	const unsure = `{"name":"sure","match":{"prefix":"/","headers":[{"name":"x"}]},"route":{"cluster":"outbound|80|v2|shop.demo.svc"}}`
	for _, c := range []struct{ routes, upstream, route, cluster, host string }{
		{v1, "", "one", "outbound|80|v1|shop.demo.svc", "shop.demo.svc"},
		{v1, "10.0.0.1:8080", "one", "outbound|80|v1|shop.demo.svc", "shop.demo.svc"},
		{v1, "[::ffff:10.0.0.1]:8080", "one", "outbound|80|v1|shop.demo.svc", "shop.demo.svc"},
		{v1, "10.0.0.1:8081", "-contradicted", "", ""},
		{weighted, "10.0.0.1:8080", "split", "outbound|80|v1|shop.demo.svc", "shop.demo.svc"},
		{weighted, "10.0.0.2:8080", "split", "outbound|80|v2|shop.demo.svc", "shop.demo.svc"},
		{weighted, "10.0.0.9:8080", "split", "", "shop.demo.svc"}, // in both
		{weighted, "", "split", "", "shop.demo.svc"},
		{weighted, "10.0.0.3:8080", "-contradicted", "", ""},
		{unsure + "," + v1, "10.0.0.2:8080", "sure", "outbound|80|v2|shop.demo.svc", "shop.demo.svc"}, // the endpoint decides
		{unsure + "," + v1, "10.0.0.1:8080", "one", "outbound|80|v1|shop.demo.svc", "shop.demo.svc"},
		{unsure + "," + v1, "10.0.0.9:8080", "-condition", "", "shop.demo.svc"},
		{unsure, "10.0.0.2:8080", "sure", "outbound|80|v2|shop.demo.svc", "shop.demo.svc"},
		{unsure, "", "-condition", "", ""},
		{`{"name":"h","match":{"prefix":"/"},"route":{"cluster_header":"x"}}`, "10.0.0.1:8080", "h", "", ""},
		{`{"name":"d","match":{"prefix":"/"},"direct_response":{"status":200}}`, "", "d", "", ""},
	} {
		r := get("shop", "/")
		r.Header = nil
		if c.upstream != "" {
			r.Upstream = addr(c.upstream)
		}
		a := gateway(t, only(c.routes), "", "").Lookup(r)
		cl := a.Cluster
		if cl == nil {
			cl = &Cluster{}
		}
		if said(a) != c.route || cl.Name != c.cluster || cl.Host != c.host {
			t.Errorf("%s at %s: %s %q %q", c.routes, c.upstream, said(a), cl.Name, cl.Host)
		}
	}
}

func TestPolicy(t *testing.T) {
	c := gateway(t, only(`{"name":"p","match":{"prefix":"/"},"metadata":{"filter_metadata":{"istio":{"config":"/apis/networking.istio.io/v1/namespaces/demo/virtual-service/shop"}}},
		"typed_per_filter_config":{"envoy.filters.http.fault":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
			"delay":{"fixed_delay":"0.5s","percentage":{"numerator":250000,"denominator":"MILLION"}},"abort":{"http_status":418,"percentage":{"numerator":10}}}},
		"route":{"cluster":"outbound|80|v1|shop.demo.svc","timeout":"2s","request_mirror_policies":[{"cluster":"outbound|80||copy","runtime_fraction":{"default_value":{"numerator":50}}}],
			"retry_policy":{"retry_on":"5xx","num_retries":3,"per_try_timeout":"0.7s"}}}`), "", "")
	a := c.Lookup(get("shop", "/"))
	want := &Route{Name: "p", VirtualHost: "h", Resource: Resource{"VirtualService", "demo", "shop"}, Policy: &Policy{
		Timeout: 2 * time.Second, Retry: &Retry{On: "5xx", Most: 3, PerTry: 700 * time.Millisecond},
		Mirrors: []Mirror{{"outbound|80||copy", 0.5}}, Fault: &Fault{500 * time.Millisecond, 0.25, 418, 0.1},
	}}
	if d := cmp.Diff(want, a.Route); d != "" || a.Why != "" {
		t.Errorf("%s %s", a.Why, d)
	}
	cl := *a.Cluster
	if cl.service = ""; cl != (Cluster{Name: "outbound|80|v1|shop.demo.svc", Port: 80, Subset: "v1", Host: "shop.demo.svc", Resource: Resource{"DestinationRule", "demo", "shop"}}) {
		t.Errorf("%+v", cl)
	}
	for routes, want := range map[string]*Policy{
		`"redirect":{"host_redirect":"x"}`:                                           {Local: "redirect"},
		`"direct_response":{"status":404}`:                                           {Local: "response"},
		`"route":{"cluster":"c"}`:                                                    {Timeout: 15 * time.Second},
		`"route":{"cluster":"c","timeout":"0s","retry_policy":{"retry_on":"reset"}}`: {Retry: &Retry{On: "reset", Most: 1}},
		`"route":{"cluster":"c"},"typed_per_filter_config":{"f":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault","headers":[{"name":"x"}]}}`: nil,
	} {
		a := gateway(t, only(`{"match":{"prefix":"/"},`+routes+`}`), "", "").Lookup(get("shop", "/"))
		if d := cmp.Diff(want, a.Route.Policy); d != "" {
			t.Errorf("%s: %s", routes, d)
		}
	}
}

func TestResource(t *testing.T) {
	for path, want := range map[string]Resource{
		"/apis/networking.istio.io/v1/namespaces/demo/virtual-service/shop":                                   {"VirtualService", "demo", "shop"},
		"/apis/networking.istio.io/v1/namespaces/demo/virtual-service/shop-0-istio-autogenerated-k8s-gateway": {},
		"/apis/networking.istio.io/v1/namespaces/demo/virtual-service/a~b":                                    {},
		"/apis/x": {}, "": {},
	} {
		if got := resource(path); got != want {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// A filter that may change a request before it is routed: nothing is said.
func TestFilters(t *testing.T) {
	const router = `{"name":"r","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`
	const lua = `{"name":"l","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}}`
	for filters, want := range map[string]string{router: "r", lua + "," + router: "-filter"} {
		if got := said(gateway(t, only(to("r", `"prefix":"/"`)), "", `,"http_filters":[`+filters+`]`).Lookup(get("shop", "/"))); got != want {
			t.Errorf("%s: %s, want %s", filters, got, want)
		}
	}
}

// sidecar is a proxy as Istio configures it: listeners of what is asked behind the one to which connections are redirected.
func sidecar(t testing.TB) *Config {
	inline := func(name string) string {
		return managerJSON(`"route_config":{"name":"`+name+`","virtual_hosts":[`+only(to(name, `"prefix":"/"`))+`]}`, "")
	}
	filter := func(name, more string) string {
		return `{"name":"` + name + `"` + more + `,"typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.` + name + `"}}`
	}
	at := func(ip string, port int) string {
		return fmt.Sprintf(`"address":{"socket_address":{"address":"%s","port_value":%d}}`, ip, port)
	}
	out := map[string]*Listener{}
	for name, json := range map[string]string{
		"out": `{` + at("0.0.0.0", 15001) + `,"use_original_dst":true,"traffic_direction":"OUTBOUND","filter_chains":[{"filters":[` + tcpJSON + `]}]}`,
		"http": `{` + at("0.0.0.0", 80) + `,"bind_to_port":false,"listener_filters":[` + filter("http_inspector.v3.HttpInspector", "") + `],
			"filter_chains":[{"filter_chain_match":{"transport_protocol":"raw_buffer","application_protocols":["http/1.1","h2c"]},"filters":[` + inline("any-80") + `]}],
			"default_filter_chain":{"filters":[` + tcpJSON + `]}}`,
		"one": `{` + at("10.96.0.1", 80) + `,"bind_to_port":false,"filter_chains":[{"filters":[` + inline("one-80") + `]}]}`,
		"in": `{` + at("0.0.0.0", 15006) + `,"traffic_direction":"INBOUND","listener_filters":[` + filter("original_dst.v3.OriginalDst", "") + `,` +
			filter("tls_inspector.v3.TlsInspector", `,"filter_disabled":{"destination_port_range":{"start":15006,"end":15007}}`) + `],"filter_chains":[
			{"filter_chain_match":{"destination_port":15006},"filters":[` + tcpJSON + `]},
			{"filter_chain_match":{"destination_port":8080,"transport_protocol":"tls"},"filters":[` + inline("in-8080") + `]},
			{"filter_chain_match":{"destination_port":8081,"transport_protocol":"tls"},"filters":[` + inline("same") + `]},
			{"filter_chain_match":{"destination_port":8081,"transport_protocol":"raw_buffer"},"filters":[` + inline("same") + `]},
			{"filter_chain_match":{"destination_port":8082,"transport_protocol":"tls"},"filters":[` + inline("secure") + `]},
			{"filter_chain_match":{"destination_port":8082,"transport_protocol":"raw_buffer"},"filters":[` + inline("clear") + `]},
			{"filter_chain_match":{"transport_protocol":"raw_buffer","prefix_ranges":[{"address_prefix":"10.0.0.0","prefix_len":8}]},"filters":[` + inline("ten") + `]},
			{"filter_chain_match":{"transport_protocol":"raw_buffer","prefix_ranges":[{"address_prefix":"10.1.0.0","prefix_len":16}]},"filters":[` + inline("ten-one") + `]},
			{"filter_chain_match":{"prefix_ranges":[{"address_prefix":"10.2.0.0","prefix_len":16}],"source_type":"EXTERNAL"},"filters":[` + inline("x") + `]},
			{"filter_chain_match":{"prefix_ranges":[{"address_prefix":"10.2.0.0","prefix_len":16}]},"filters":[` + inline("y") + `]}]}`,
		"tls": `{` + at("0.0.0.0", 443) + `,"listener_filters":[` + filter("tls_inspector.v3.TlsInspector", "") + `],"filter_chains":[
			{"filter_chain_match":{"server_names":["shop.example"]},"filters":[` + inline("shop") + `]},
			{"filter_chain_match":{"server_names":["*.example"]},"filters":[` + inline("example") + `]}]}`,
	} {
		out[name] = NewListener(read(t, &listener.Listener{}, json))
	}
	return New(out, nil, nil, nil)
}

func TestListeners(t *testing.T) {
	c := sidecar(t)
	for _, w := range []struct {
		d             Direction
		local         string
		tls           bool
		sni, protocol string
		want          string
	}{
		{Outbound, "10.96.0.2:80", false, "", "http/1.1", "any-80"},
		{Outbound, "10.96.0.2:80", false, "", "http/2", "any-80"},
		{Outbound, "10.96.0.2:80", false, "", "http/1.0", "-no-http"}, // Istio's listeners pass it on
		{Outbound, "10.96.0.2:80", false, "", "", "-listeners"},
		{Outbound, "10.96.0.1:80", false, "", "http/1.1", "one-80"},
		{Outbound, "[::ffff:10.96.0.1]:80", false, "", "http/1.1", "one-80"},
		{Outbound, "10.96.0.1:81", false, "", "http/1.1", "-no-http"},
		{Inbound, "10.0.0.5:8080", true, "", "http/1.1", "in-8080"},
		{Inbound, "10.0.0.5:8080", false, "", "http/1.1", "-no-listener"}, // STRICT
		{Inbound, "10.0.0.5:8081", true, "", "http/1.1", "same"},
		{Inbound, "10.0.0.5:8082", true, "", "http/1.1", "-listeners"}, // whether the inspector looks at this port is not read
		{Inbound, "10.0.0.5:8082", false, "", "http/1.1", "clear"},
		{Inbound, "10.0.0.5:9", false, "", "http/1.1", "ten"},
		{Inbound, "10.1.0.5:9", false, "", "http/1.1", "ten-one"},
		{Inbound, "10.2.0.5:9", false, "", "http/1.1", "-listeners"}, // who connects decides
		{Inbound, "11.1.0.5:9", false, "", "http/1.1", "-no-listener"},
		{Gateway, "10.0.0.5:443", true, "shop.example", "http/1.1", "shop"},
		{Gateway, "10.0.0.5:443", true, "a.example", "http/1.1", "example"},
		{Gateway, "10.0.0.5:443", true, "other", "http/1.1", "-no-listener"},
		{Gateway, "10.0.0.5:443", true, "", "http/1.1", "-listeners"},
		{Gateway, "10.0.0.5:443", false, "", "http/1.1", "-no-listener"},
		{Gateway, "10.0.0.5:444", false, "", "http/1.1", "-no-listener"},
	} {
		r := get("shop", "/")
		r.Direction, r.Local, r.TLS, r.SNI, r.Protocol = w.d, addr(w.local), w.tls, w.sni, w.protocol
		if got := said(c.Lookup(r)); got != w.want {
			t.Errorf("%+v: %s", w, got)
		}
	}
	var none *Config
	if a := none.Lookup(get("shop", "/")); a.Why != NoConfig || none.Len() != 0 {
		t.Errorf("nil: %+v", a)
	}
	if a := gateway(t, "", "", "").Lookup(get("shop", "/")); a.Why != NoMatch {
		t.Errorf("no virtual host: %+v", a)
	}
}

// What is asked for every request allocates nothing.
func TestNoAllocation(t *testing.T) {
	c, r := busy(t)
	if n := testing.AllocsPerRun(100, func() { c.Lookup(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// busy is a proxy with 100 virtual hosts of 10 routes, and a request that is for the last of them.
func busy(t testing.TB) (*Config, *Request) {
	var hosts []string
	for i := range 100 {
		var routes []string
		for j := range 9 {
			routes = append(routes, to("x", fmt.Sprintf(`"prefix":"/%d","headers":[{"name":"x-version","string_match":{"exact":"2"}}]`, j)))
		}
		hosts = append(hosts, fmt.Sprintf(`{"name":"h%d","domains":["s%d.example","s%d"],"routes":[%s]}`, i, i, i, strings.Join(append(routes, weighted), ",")))
	}
	r := get("s99.example:80", "/8/cart?item=1")
	r.Upstream = addr("10.0.0.2:8080")
	c := gateway(t, strings.Join(hosts, ","), `,"ignore_port_in_host_matching":true`, `,"normalize_path":true`)
	if a := c.Lookup(r); said(a) != "split" || a.Cluster.Subset != "v2" {
		t.Fatalf("%+v", a)
	}
	return c, r
}

func BenchmarkLookup(b *testing.B) {
	c, r := busy(b)
	b.ReportAllocs()
	for b.Loop() {
		c.Lookup(r)
	}
}
