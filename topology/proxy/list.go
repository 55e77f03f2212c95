package proxy

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Rule is a route for people: where it stands, and what it does. Conditions on headers and parameters are counted, not shown.
type Rule struct {
	Table    string   // the RouteConfiguration
	Domains  []string // of its virtual host
	Path     string   // condition on it: exact, prefix* or ~regular expression; empty: any, or not known
	More     int      // other conditions
	Clusters []string // that it may send to
	Empty    []string // those of them that have no endpoint
	Route    Route
}

// Rules are all routes that a proxy has, by table and virtual host; within one in the order in which they are tried.
func (c *Config) Rules() (out []Rule) {
	if c == nil {
		return nil
	}
	for _, table := range slices.Sorted(maps.Keys(c.routes)) {
		domains := c.routes[table].domains()
		hosts := slices.SortedFunc(maps.Keys(domains), func(x, y *virtualHost) int { return cmp.Compare(domains[x][0], domains[y][0]) })
		for _, host := range hosts {
			for _, e := range host.entries {
				out = append(out, c.rule(table, domains[host], e))
			}
		}
	}
	return out
}

// domains are the virtual hosts of a table and what each stands for.
func (r *Routes) domains() map[*virtualHost][]string {
	out := map[*virtualHost][]string{}
	for _, domain := range slices.Sorted(maps.Keys(r.exact)) {
		out[r.exact[domain]] = append(out[r.exact[domain]], domain)
	}
	for _, w := range r.suffixes {
		out[w.host] = append(out[w.host], "*"+w.text)
	}
	for _, w := range r.prefixes {
		out[w.host] = append(out[w.host], w.text+"*")
	}
	if r.any != nil {
		out[r.any] = append(out[r.any], "*")
	}
	return out
}

func (c *Config) rule(table string, domains []string, e *entry) Rule {
	r := Rule{Table: table, Domains: domains, Path: e.path.String(), More: len(e.headers) + len(e.parameters), Route: e.Route}
	for _, target := range e.targets {
		r.Clusters = append(r.Clusters, target.Name)
		target = c.cluster(target)
		if told := c.endpoints[target.service]; target.service != "" && told != nil && len(told.addrs) == 0 && !told.open {
			r.Empty = append(r.Empty, target.Name)
		}
	}
	return r
}

// String is for people. Empty: any text, or it is not known which.
func (t *text) String() string {
	switch t.kind {
	case textExact:
		return t.value
	case textPrefix:
		return t.value + "*"
	case textPathPrefix:
		return t.value + "/*"
	case textContains:
		return "*" + t.value + "*"
	case textSuffix:
		return "*" + t.value
	case textRegexp:
		return "~" + strings.TrimSuffix(strings.TrimPrefix(t.regexp.String(), `\A(?:`), `)\z`)
	}
	return ""
}
