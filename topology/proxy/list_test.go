package proxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// All routes are listed as they are tried, with whom they send to.
func TestRules(t *testing.T) {
	c := gateway(t, `{"name":"b","domains":["b.demo","b.demo:80","*.b"],"routes":[
			{"name":"one","match":{"path":"/x"},"route":{"cluster":"outbound|80|v1|shop.demo.svc"}},
			{"name":"two","match":{"prefix":"/y","headers":[{"name":"x","string_match":{"exact":"1"}}]},"route":{"weighted_clusters":{"clusters":[
				{"name":"outbound|80|v1|shop.demo.svc","weight":1},{"name":"outbound|80|v2|shop.demo.svc","weight":1}]}}},
			{"match":{"safe_regex":{"regex":"/z[0-9]+"}},"route":{"cluster":"outbound|80|none|shop.demo.svc"}}]},
		{"name":"a","domains":["*"],"routes":[{"match":{"path_separated_prefix":"/p"},"redirect":{"host_redirect":"h"}}]}`, "", "")
	v1, v2, none := "outbound|80|v1|shop.demo.svc", "outbound|80|v2|shop.demo.svc", "outbound|80|none|shop.demo.svc"
	c.clusters[none] = &Cluster{Name: none, service: none}
	c.endpoints[none] = &Endpoints{}
	c.routes["r"].any.entries[0].Policy = nil
	type row struct {
		Domains         []string
		Name, Path      string
		More            int
		Clusters, Empty []string
	}
	var got []row
	for _, r := range c.Rules() {
		if r.Table != "r" {
			t.Errorf("table %q", r.Table)
		}
		got = append(got, row{r.Domains, r.Route.Name, r.Path, r.More, r.Clusters, r.Empty})
	}
	b := []string{"b.demo", "b.demo:80", "*.b"}
	want := []row{
		{[]string{"*"}, "", "/p/*", 0, nil, nil},
		{b, "one", "/x", 0, []string{v1}, nil},
		{b, "two", "/y*", 1, []string{v1, v2}, nil},
		{b, "", "~/z[0-9]+", 0, []string{none}, []string{none}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if rules := (*Config)(nil).Rules(); rules != nil {
		t.Errorf("of no Config: %v", rules)
	}
}
