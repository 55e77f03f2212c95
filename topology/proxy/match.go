package proxy

import (
	"regexp"
	"strconv"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// verdict is whether a condition holds, as far as is known.
type verdict uint8

const (
	no verdict = iota
	maybe
	yes
)

func is(b bool) verdict {
	if b {
		return yes
	}
	return no
}

func (v verdict) not() verdict { return yes - v }

// text is a condition on a string.
type text struct {
	kind   textKind
	value  string // in lower case if fold
	fold   bool
	regexp *regexp.Regexp
}

type textKind uint8

const (
	textUnknown textKind = iota // nothing is known of it
	textAny
	textExact
	textPrefix
	textSuffix
	textContains
	textRegexp
	textPathPrefix // the value, and then the end or a slash
)

// newText lowers the value where case does not count.
func newText(kind textKind, value string, fold bool) text {
	if fold {
		value = strings.ToLower(value)
	}
	return text{kind: kind, value: value, fold: fold}
}

func textOf(m *matcher.StringMatcher) text {
	fold := m.GetIgnoreCase()
	switch p := m.GetMatchPattern().(type) {
	case *matcher.StringMatcher_Exact:
		return newText(textExact, p.Exact, fold)
	case *matcher.StringMatcher_Prefix:
		return newText(textPrefix, p.Prefix, fold)
	case *matcher.StringMatcher_Suffix:
		return newText(textSuffix, p.Suffix, fold)
	case *matcher.StringMatcher_Contains:
		return newText(textContains, p.Contains, fold)
	case *matcher.StringMatcher_SafeRegex:
		return regexpOf(p.SafeRegex)
	}
	return text{}
}

// regexpOf must match all of a string. Envoy's engine is RE2, of which Go's is a sibling.
func regexpOf(m *matcher.RegexMatcher) text {
	if _, err := regexp.Compile(m.GetRegex()); err != nil {
		return text{}
	}
	whole, err := regexp.Compile(`\A(?:` + m.GetRegex() + `)\z`)
	if err != nil {
		return text{}
	}
	return text{kind: textRegexp, regexp: whole}
}

func (t *text) matches(s string) verdict {
	if t.fold && !lower(s) {
		s = strings.ToLower(s)
	}
	switch t.kind {
	case textAny:
		return yes
	case textExact:
		return is(s == t.value)
	case textPrefix:
		return is(strings.HasPrefix(s, t.value))
	case textSuffix:
		return is(strings.HasSuffix(s, t.value))
	case textContains:
		return is(strings.Contains(s, t.value))
	case textPathPrefix:
		return is(strings.HasPrefix(s, t.value) && (len(s) == len(t.value) || s[len(t.value)] == '/'))
	case textRegexp:
		if !ascii(s) {
			return maybe // the engines differ in what is no UTF-8
		}
		return is(t.regexp.MatchString(s))
	}
	return maybe
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// lower says whether a string has no upper case letters, nor letters of which that is not sure.
func lower(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 0x80 || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

// header is a condition on a header.
type header struct {
	name    string
	text    text
	number  bool // the value is one, from and below
	from    int64
	below   int64
	present bool // only whether it is there counts
	wanted  bool // it must be there
	invert  bool
	empty   bool // one that is missing is empty
}

func headerOf(m *route.HeaderMatcher) header {
	h := header{name: strings.ToLower(m.GetName()), invert: m.GetInvertMatch(), empty: m.GetTreatMissingHeaderAsEmpty()}
	switch p := m.GetHeaderMatchSpecifier().(type) {
	case *route.HeaderMatcher_StringMatch:
		h.text = textOf(p.StringMatch)
	case *route.HeaderMatcher_RangeMatch:
		h.number, h.from, h.below = true, p.RangeMatch.GetStart(), p.RangeMatch.GetEnd()
	case *route.HeaderMatcher_PresentMatch:
		h.present, h.wanted = true, p.PresentMatch
	case nil:
		h.present, h.wanted = true, true
	default:
		h.text = oldText(m)
	}
	return h
}

func (h *header) matches(q *query) verdict {
	value, known := q.header(h.name)
	if known == Unknown {
		return maybe
	}
	if known == Absent && !h.empty {
		return is(h.present && h.wanted == h.invert) // all else is false, also when inverted
	}
	so := maybe
	switch {
	case h.present:
		so = is(h.wanted)
	case h.number:
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		so = is(err == nil && h.from <= n && n < h.below)
	default:
		so = h.text.matches(value)
	}
	if h.invert {
		return so.not()
	}
	return so
}

// parameter is a condition on a query parameter.
type parameter struct {
	name    string
	present bool // it must only be there
	text    text
}

func parameterOf(m *route.QueryParameterMatcher) parameter {
	p := parameter{name: m.GetName()}
	switch s := m.GetQueryParameterMatchSpecifier().(type) {
	case *route.QueryParameterMatcher_StringMatch:
		p.text = textOf(s.StringMatch)
	case *route.QueryParameterMatcher_PresentMatch:
		p.present = s.PresentMatch // if it must not: not known
	case nil:
		p.present = true
	}
	return p
}

func (p *parameter) matches(q *query) verdict {
	if q.NoQuery {
		return maybe
	}
	for rest := q.rawQuery; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(pair, "=")
		if strings.ContainsAny(pair, "%+") {
			return maybe // Envoy's releases differ in what they decode
		}
		if name == p.name {
			if p.present {
				return yes
			}
			return p.text.matches(value)
		}
	}
	if !p.present && p.text.kind == textUnknown {
		return maybe
	}
	return no
}

// fraction is a share from 0 to 1.
func fraction(f *envoytype.FractionalPercent) float64 {
	of := 100.0
	switch f.GetDenominator() {
	case envoytype.FractionalPercent_TEN_THOUSAND:
		of = 10_000
	case envoytype.FractionalPercent_MILLION:
		of = 1_000_000
	}
	return min(float64(f.GetNumerator())/of, 1)
}
