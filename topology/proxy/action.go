package proxy

import (
	"slices"
	"time"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// defaultTimeout is Envoy's for a route that says none. Istio always says one.
const defaultTimeout = 15 * time.Second

// act reads what a route does.
func (e *entry) act(one *route.Route, v *route.VirtualHost, r *route.RouteConfiguration) {
	switch a := one.GetAction().(type) {
	case *route.Route_Route:
		e.forward(a.Route, v, r)
	case *route.Route_Redirect:
		e.Policy = &Policy{Local: "redirect"}
	case *route.Route_DirectResponse:
		e.Policy = &Policy{Local: "response"}
	default:
		e.opaque = true
		return
	}
	if e.Policy == nil {
		return
	}
	for _, by := range []map[string]*anypb.Any{one.GetTypedPerFilterConfig(), v.GetTypedPerFilterConfig(), r.GetTypedPerFilterConfig()} {
		f, found, known := faultIn(by)
		if !known {
			e.Policy = nil
			return
		}
		if found {
			e.Policy.Fault = f
			return
		}
	}
}

func (e *entry) forward(a *route.RouteAction, v *route.VirtualHost, r *route.RouteConfiguration) {
	e.Policy = &Policy{Timeout: defaultTimeout}
	if t := a.GetTimeout(); t != nil {
		e.Policy.Timeout = duration(t)
	}
	if retry := a.GetRetryPolicy(); retry != nil {
		e.Policy.Retry = retryOf(retry)
	} else if retry := v.GetRetryPolicy(); retry != nil {
		e.Policy.Retry = retryOf(retry)
	}
	mirrors := a.GetRequestMirrorPolicies()
	for _, more := range [][]*route.RouteAction_RequestMirrorPolicy{v.GetRequestMirrorPolicies(), r.GetRequestMirrorPolicies()} {
		if len(mirrors) == 0 {
			mirrors = more
		}
	}
	for _, m := range mirrors {
		share := 1.0
		if m.GetRuntimeFraction() != nil {
			share = fraction(m.GetRuntimeFraction().GetDefaultValue())
		}
		e.Policy.Mirrors = append(e.Policy.Mirrors, Mirror{Cluster: m.GetCluster(), Share: share})
	}
	typed := a.GetRetryPolicyTypedConfig() != nil || v.GetRetryPolicyTypedConfig() != nil
	switch to := a.GetClusterSpecifier().(type) {
	case *route.RouteAction_Cluster:
		e.targets = []*Cluster{named(to.Cluster)}
	case *route.RouteAction_WeightedClusters:
		typed = e.weigh(to.WeightedClusters) || typed
	default:
		e.opaque = true
	}
	if typed {
		e.Policy = nil
	}
}

// weigh takes a route's clusters that get requests. odd: some of them have rules of their own.
func (e *entry) weigh(w *route.WeightedCluster) (odd bool) {
	for _, one := range w.GetClusters() {
		if len(one.GetTypedPerFilterConfig()) > 0 {
			odd = true
		}
		switch {
		case one.GetName() == "": // a header names it
			e.opaque = true
		case one.GetWeight().GetValue() > 0 && !slices.ContainsFunc(e.targets, func(c *Cluster) bool { return c.Name == one.GetName() }):
			e.targets = append(e.targets, named(one.GetName()))
		}
	}
	if len(e.targets) == 0 {
		e.opaque = true
		return odd
	}
	e.common = e.targets[0]
	for _, t := range e.targets[1:] {
		e.common = both(e.common, t)
	}
	return odd
}

func retryOf(r *route.RetryPolicy) *Retry {
	out := &Retry{On: r.GetRetryOn(), Most: 1}
	if r.GetNumRetries() != nil {
		out.Most = r.GetNumRetries().GetValue()
	}
	out.PerTry = duration(r.GetPerTryTimeout())
	return out
}

func duration(d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.AsDuration()
}

// faultIn finds a fault among the filters' own rules. known is false if there is one whose conditions are not read here.
func faultIn(by map[string]*anypb.Any) (f *Fault, found, known bool) {
	for _, value := range by {
		wrapped := &route.FilterConfig{}
		if value.MessageIs(wrapped) {
			if value.UnmarshalTo(wrapped) != nil || wrapped.GetDisabled() {
				return nil, false, false
			}
			value = wrapped.GetConfig()
		}
		m := &fault.HTTPFault{}
		if !value.MessageIs(m) {
			continue
		}
		if value.UnmarshalTo(m) != nil || found {
			return nil, false, false
		}
		if f, known = faultOf(m); !known {
			return nil, false, false
		}
		found = true
	}
	return f, found, true
}

func faultOf(m *fault.HTTPFault) (*Fault, bool) {
	f := &Fault{}
	if m.GetUpstreamCluster() != "" || len(m.GetHeaders()) > 0 || len(m.GetDownstreamNodes()) > 0 {
		return nil, false
	}
	if d := m.GetDelay(); d != nil {
		if _, fixed := d.GetFaultDelaySecifier().(*faultpb.FaultDelay_FixedDelay); !fixed {
			return nil, false
		}
		f.Delay, f.DelayShare = duration(d.GetFixedDelay()), fraction(d.GetPercentage())
	}
	if a := m.GetAbort(); a != nil {
		if _, status := a.GetErrorType().(*fault.FaultAbort_HttpStatus); !status {
			return nil, false
		}
		f.Abort, f.AbortShare = a.GetHttpStatus(), fraction(a.GetPercentage())
	}
	if *f == (Fault{}) {
		return nil, true
	}
	return f, true
}

func (p *Policy) equal(o *Policy) bool {
	if p == o || p == nil || o == nil {
		return p == o
	}
	return p.Timeout == o.Timeout && p.Local == o.Local && same(p.Retry, o.Retry) && same(p.Fault, o.Fault) && slices.Equal(p.Mirrors, o.Mirrors)
}

func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
