package proxy

//lint:file-ignore SA1019 control planes still send what Envoy's API calls deprecated, and Envoy still obeys

import (
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// oldText is a condition on a header in the forms that came before string_match.
func oldText(m *route.HeaderMatcher) text {
	switch p := m.GetHeaderMatchSpecifier().(type) {
	case *route.HeaderMatcher_ExactMatch:
		if p.ExactMatch == "" {
			return text{kind: textAny}
		}
		return newText(textExact, p.ExactMatch, false)
	case *route.HeaderMatcher_SafeRegexMatch:
		return regexpOf(p.SafeRegexMatch)
	case *route.HeaderMatcher_PrefixMatch:
		return newText(textPrefix, p.PrefixMatch, false)
	case *route.HeaderMatcher_SuffixMatch:
		return newText(textSuffix, p.SuffixMatch, false)
	case *route.HeaderMatcher_ContainsMatch:
		return newText(textContains, p.ContainsMatch, false)
	}
	return text{}
}

// unbound says whether a listener has no socket, as older control planes say it.
func unbound(l *listener.Listener) bool {
	v1 := l.GetDeprecatedV1().GetBindToPort()
	return v1 != nil && !v1.GetValue()
}
