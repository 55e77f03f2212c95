package kube

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/meshwatch/meshwatch/topology"
)

// tree walks an object of which only some fields are known. A field that is not there, or of another type, is empty.
type tree map[string]any

func (t tree) under(key string) tree  { m, _ := t[key].(map[string]any); return m }
func (t tree) text(key string) string { s, _ := t[key].(string); return s }
func (t tree) number(key string) int  { n, _ := t[key].(int64); return int(n) }
func (t tree) port(key string) uint16 { return uint16(t.number(key)) } //nolint:gosec // the CRD's schema has seen to it

func (t tree) list(key string) (out []tree) {
	list, _ := t[key].([]any)
	for _, item := range list {
		m, _ := item.(map[string]any)
		out = append(out, m)
	}
	return out
}

func (t tree) texts(key string) (out []string) {
	list, _ := t[key].([]any)
	for _, item := range list {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// keepGatewayRoute is for HTTPRoutes and GRPCRoutes.
func keepGatewayRoute(u *unstructured.Unstructured) any {
	spec := tree(u.Object).under("spec")
	r := topology.Resource{Hosts: spec.texts("hostnames")}
	for _, p := range spec.list("parentRefs") {
		r.Gateways = append(r.Gateways, reference(p, "Gateway"))
	}
	for _, rule := range spec.list("rules") {
		out := topology.Route{Name: rule.text("name")}
		out.Timeout = duration(rule.under("timeouts").text("request"))
		out.TryTimeout = duration(rule.under("timeouts").text("backendRequest"))
		out.Attempts = rule.under("retry").number("attempts")
		for _, m := range rule.list("matches") {
			out.Match = append(out.Match, gatewayMatch(m))
		}
		for _, b := range rule.list("backendRefs") {
			weight := 1
			if _, given := b["weight"]; given {
				weight = b.number("weight")
			}
			out.Destinations = append(out.Destinations, topology.Destination{Host: reference(b, "Service"), Port: b.port("port"), Weight: weight})
		}
		var filters []string
		for _, f := range rule.list("filters") {
			filters = append(filters, f.text("type"))
		}
		out.Detail = strings.Join(filters, ", ")
		r.Routes = append(r.Routes, out)
	}
	return r
}

// reference is namespace/name of what an object refers to; its kind too, where that is not the usual.
func reference(t tree, usual string) string {
	out := t.text("name")
	if ns := t.text("namespace"); ns != "" {
		out = ns + "/" + out
	}
	if kind := t.text("kind"); kind != "" && kind != usual {
		out = kind + " " + out
	}
	return out
}

// duration is 0 for none, and for one that the CRD's schema would not let pass.
func duration(text string) time.Duration {
	d, _ := time.ParseDuration(text) //nolint:errcheck // then it is 0
	return d
}

func gatewayMatch(m tree) string {
	var parts []string
	say := func(what string, t tree) {
		switch value := t.text("value"); {
		case value == "":
		case t.text("type") == "PathPrefix":
			parts = append(parts, what+" "+value+"*")
		case t.text("type") == "RegularExpression":
			parts = append(parts, what+" ~ "+value)
		default:
			parts = append(parts, what+" "+value)
		}
	}
	say("path", m.under("path"))
	if method := m.text("method"); method != "" {
		parts = append(parts, "method "+method)
	}
	if call := m.under("method"); call != nil { // of a GRPCRoute
		parts = append(parts, strings.TrimSuffix("method "+call.text("service")+"/"+call.text("method"), "/"))
	}
	for _, h := range m.list("headers") {
		say("header "+h.text("name"), h)
	}
	return strings.Join(parts, ", ")
}

func keepKubernetesGateway(u *unstructured.Unstructured) any {
	spec := tree(u.Object).under("spec")
	r := topology.Resource{Detail: "class " + spec.text("gatewayClassName")}
	for _, l := range spec.list("listeners") {
		if host := l.text("hostname"); host != "" {
			r.Hosts = append(r.Hosts, host)
		}
		r.Ports = append(r.Ports, l.port("port"))
	}
	for _, a := range tree(u.Object).under("status").list("addresses") {
		r.Addresses = append(r.Addresses, a.text("value"))
	}
	return r
}
