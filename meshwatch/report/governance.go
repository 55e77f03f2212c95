package report

import "github.com/meshwatch/meshwatch/meshwatch/journey"

func appendGovernance(b []byte, g *journey.Governance) []byte {
	b = append(b, `,"governance":`...)
	at := len(b)
	b = optional(b, `,"route":`, g.Route)
	b = optional(b, `,"virtual_host":`, g.VirtualHost)
	b = appendResource(b, `,"defined":`, g.Defined)
	if g.Policy != nil {
		b = appendPolicy(b, g.Policy)
	}
	b = optional(b, `,"cluster":`, g.Cluster)
	b = optional(b, `,"subset":`, g.Subset)
	b = optional(b, `,"service":`, g.Service)
	b = appendResource(b, `,"destination":`, g.Destination)
	b = optional(b, `,"unknown":`, g.Unknown)
	if len(b) == at {
		b = append(b, '{')
	}
	b[at] = '{' // for the first comma
	return append(b, '}')
}

func appendResource(b []byte, name string, r journey.Resource) []byte {
	if r == (journey.Resource{}) {
		return b
	}
	b = required(append(b, name...), `{"kind":`, r.Kind)
	b = required(b, `,"namespace":`, r.Namespace)
	return append(required(b, `,"name":`, r.Name), '}')
}

func appendPolicy(b []byte, p *journey.Policy) []byte {
	b = number(b, `,"policy":{"timeout_ns":`, p.Timeout)
	b = optional(b, `,"retry_on":`, p.RetryOn)
	b = number(b, `,"retries":`, p.Retries)
	b = number(b, `,"per_try_timeout_ns":`, p.PerTry)
	if len(p.Mirrors) > 0 {
		b = append(b, `,"mirrors":`...)
		b = list(b, p.Mirrors, func(b []byte, m *string) []byte { return appendString(b, *m) })
	}
	b = number(b, `,"fault_delay_ns":`, p.Delay)
	b = real64(b, `,"fault_delay_share":`, p.DelayShare)
	if p.Abort != 0 {
		b = number(b, `,"fault_abort":`, p.Abort)
	}
	b = real64(b, `,"fault_abort_share":`, p.AbortShare)
	b = optional(b, `,"answered_by":`, p.Local)
	return append(b, '}')
}
