package proxy

import (
	"testing"

	"github.com/meshwatch/meshwatch/topology"
)

func TestVersions(t *testing.T) {
	const late = topology.Lateness
	one, two, three := gateway(t, only(to("one", `"prefix":"/"`)), "", ""), gateway(t, only(to("two", `"prefix":"/"`)), "", ""), gateway(t, only(to("one", `"prefix":"/"`)), "", "")
	var none *Versions
	first := none.Then(one, 5, 5)
	changed := first.Then(two, 10*late, 10*late)
	again := changed.Then(three, 10*late+late/2, 10*late+late/2)
	settled := changed.Then(three, 100*late, 100*late)
	away := first.Then(two, 10*late, 5*late)
	for _, c := range []struct {
		v    *Versions
		at   uint64
		want string
	}{
		{none, 1, "-no-config"}, {first, 1, "one"}, {first.With(two), 1, "two"},
		{changed, 8 * late, "one"}, {changed, 9*late + 1, "-changing"}, {changed, 10 * late, "-changing"}, {changed, 11 * late, "two"},
		{away, 4*late - 1, "one"}, {away, 4 * late, "-changing"}, {away, 9 * late, "-changing"}, {away, 11 * late, "two"}, // it was not heard of since 5
		{again, 8 * late, "-changing"}, {again, 11 * late, "-changing"}, {again, 12 * late, "one"}, // which one it was is not known any more
		{settled, 50 * late, "two"}, {settled, 100 * late, "-changing"},
		{first.Then(three, 10*late, 10*late), 10 * late, "one"}, // the same under both
	} {
		if got := said(c.v.Lookup(get("shop", "/"), c.at)); got != c.want {
			t.Errorf("at %d of %+v: %s, want %s", c.at/late, c.v, got, c.want)
		}
	}
	if none.Now() != nil || changed.Now() != two {
		t.Error("now is another")
	}
}
