package join

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// saidWord is what a simulated proxy says of one of its requests.
type saidWord struct {
	journey.Said
	at   uint64 // when it is sent: once a second, as Envoy does it
	by   uint64 // flight of its response
	over bool
}

// heardScore is what became of a simulated proxy's requests without ids. Wrong ones are those by its word; others are not counted among them.
type heardScore struct {
	right, wrong, apart, others, shifted int
}

func (s heardScore) claimed() float64 {
	return float64(s.right) / float64(max(s.right+s.wrong+s.apart, 1))
}

// port is an address of the simulation, which has none but these.
func port(n uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), n) }

func (s *saidSim) begins(n int, c *conn) {
	for len(s.words) <= n {
		s.words = append(s.words, saidWord{})
	}
	s.words[n].Said = journey.Said{
		By: journey.Speaker{Pid: saidProxy}, Start: s.now + 500,
		Downstream: journey.Connection{Local: port(c.ports[1]), Remote: port(c.ports[0])},
	}
}

func (s *saidSim) goesOn(n int, up *conn) {
	w := &s.words[n]
	w.Upstream = journey.Connection{Local: port(up.ports[0]), Remote: port(up.ports[1])}
	w.Upto = time.Duration(s.now - min(s.now, w.Start) - 200) //nolint:gosec // ns of a test
}

func (s *saidSim) hasAnswer(n int) {
	w := &s.words[n]
	w.Answer = time.Duration(s.now + 300 - w.Start) //nolint:gosec // ns of a test
}

func (s *saidSim) ends(n int) {
	w := &s.words[n]
	w.Duration = time.Duration(s.now - w.Start) //nolint:gosec // ns of a test
}

// stalled does something now, or once the proxy has a CPU again.
func (s *saidSim) stalled(do func()) {
	if s.opts.stalls > 0 && s.rng.Float64() < s.opts.stalls {
		s.at(s.now+100*ms, do)
		return
	}
	do()
}

func (s *saidSim) isOver(n int, response *saidFlight) {
	w := &s.words[n]
	w.by = response.f.Id
	w.at, w.over = (s.now/(1000*ms)+1)*1000*ms, true
}

// says gives a joiner what is sent by a time.
func (s *saidSim) says(j *Joiner, at uint64) {
	for i := range s.words {
		if w := &s.words[i]; w.over && w.at <= at {
			w.over = false
			j.Say(&w.Said)
		}
	}
}

// heardSim plays a simulation whose proxy's words, changed by change, are heard.
func heardSim(t *testing.T, seed uint64, o saidOptions, change func(*rand.Rand, []saidWord)) (score heardScore, methods map[journey.Method]int) {
	t.Helper()
	w := newWorld(t)
	w.j.cfg.Hear = 1500 * time.Millisecond
	s := newSaidSim(w, seed, o)
	if change != nil {
		change(rand.New(rand.NewPCG(seed, 1)), s.words) //nolint:gosec // it need not be secret
	}
	w.j.Say(&journey.Said{By: journey.Speaker{Pid: saidProxy}, Start: w.now - ms, Downstream: journey.Connection{Local: port(8080), Remote: port(1)}}) // that it speaks is known
	methods = map[journey.Method]int{}
	w.j.emit = func(tree *Tree) {
		for _, x := range tree.Exchanges {
			n, ours := s.truth[x.Req.Flight.Id]
			switch {
			case !ours || x.ClientPid() != saidProxy || x.hasID:
				continue
			case x.Parent < 0:
				score.apart++
				continue
			case s.truth[tree.Exchanges[x.Parent].Req.Flight.Id] != n:
				if x.Relay.Method != journey.MethodProxyLog {
					score.others++ // assignment_test has these
					continue
				}
				y := tree.Exchanges[x.Parent]
				if m := s.truth[y.Req.Flight.Id]; y.Resp.Flight.Id != s.words[m].by {
					score.shifted++ // its response is another request's, since flights were lost: two requests in one, both its cause
					continue
				}
				score.wrong++
				if x.Relay.Confidence >= 1 {
					t.Errorf("a wrong join by %s is sure", x.Relay.Method)
				}
			default:
				score.right++
			}
			methods[x.Relay.Method]++
		}
	}
	s.play(w.j, w.j.Tick)
	w.j.Close()
	if n := len(w.j.groups) + len(w.j.traces) + len(w.j.quiet); n != 0 {
		t.Errorf("%d groups left in memory", n)
	}
	return score, methods
}

// Identical requests without ids, at every load: with the proxy's word all are joined, and right.
func TestSaidJoinsAll(t *testing.T) {
	for _, clients := range []int{1, 16, 256, 1000} {
		for _, lost := range []float64{0, 0.01} {
			o := saidOptions{clients: clients, workers: 2, requests: 3000, targets: 1, lost: lost, service: 300_000, stalls: 0.02}
			t.Run(fmt.Sprintf("%d clients, %v lost", clients, lost), func(t *testing.T) {
				score, methods := heardSim(t, 1, o, nil)
				t.Logf("%+v %v", score, methods)
				if score.wrong > 0 {
					t.Errorf("%d wrong", score.wrong)
				}
				if lost == 0 && score.claimed() < 0.999 {
					t.Errorf("%.3f %% are right", 100*score.claimed())
				}
			})
		}
	}
}

// What is seen long after the proxy says that it answered is still its answer, unless it had begun with the next request by then.
func TestLateAnswers(t *testing.T) {
	const start, late = 1000 * ms, 1100 * ms
	for name, c := range map[string]struct {
		at, next, now uint64
		off           time.Duration
		stream        uint32
		want          bool
	}{
		"in time":                         {at: start + 12*ms, now: start + 20*ms, want: true},
		"late, before the next":           {at: late, next: late + 1, now: late + ms, want: true},
		"after the next began":            {at: late, next: late - 1, now: late + 2000*ms},
		"late, the next may yet be said":  {at: late, now: late + 1000*ms},
		"late, and it would have been":    {at: late, now: late + 1250*ms, want: true},
		"late, by a clock that is off":    {at: late, next: late + 1, now: late + 2000*ms, off: time.Millisecond},
		"late, of many on the connection": {at: late, next: late + 1, now: late + 2000*ms, stream: 1},
	} {
		j := newWorld(t).j
		j.cfg.Hear, j.now = 1500*time.Millisecond, c.now
		w := &word{Said: journey.Said{Start: start, Duration: 10 * time.Millisecond, Error: c.off}}
		if got := j.answeredInTime(w, &Exchange{Resp: &Message{StartNs: c.at}, Stream: Stream{ID: c.stream}}, c.next); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Without a flight that was lost there is no join; what was said of it is not given to its neighbours, however many of them are heard.
func TestSaidIsNeverWrong(t *testing.T) {
	for seed := range uint64(2) {
		for _, clients := range []int{4, 64} {
			for _, heard := range []float64{0.05, 1} {
				o := saidOptions{clients: clients, workers: 2, requests: 2000, targets: 1, lost: 0.05, service: 300_000, withID: 0.3, stalls: 0.02}
				t.Run(fmt.Sprintf("%d clients, %v heard, seed %d", clients, heard, seed), func(t *testing.T) {
					score, methods := heardSim(t, seed, o, func(rng *rand.Rand, words []saidWord) {
						for i := range words {
							words[i].over = words[i].over && rng.Float64() < heard
						}
					})
					t.Logf("%+v %v", score, methods)
					if score.wrong > 0 {
						t.Errorf("%d wrong joins", score.wrong)
					}
				})
			}
		}
	}
}

// Another process that tells lies about the proxy's connections is not heard: all is as without it.
func TestSaidOfOthers(t *testing.T) {
	o := saidOptions{clients: 64, workers: 2, requests: 3000, targets: 1, service: 300_000}
	score, methods := heardSim(t, 2, o, func(rng *rand.Rand, words []saidWord) {
		for i := range words {
			words[i].By.Pid = saidUpstream
			words[i].Upstream = words[rng.IntN(len(words))].Upstream
		}
	})
	if methods[journey.MethodProxyLog] > 0 || score.wrong > 0 {
		t.Errorf("%+v %v", score, methods)
	}
}

// A proxy that lies about its own requests may mislead about itself, but nothing of it is sure, and what contradicts it is left apart.
func TestLiesAboutItself(t *testing.T) {
	o := saidOptions{clients: 64, workers: 2, requests: 3000, targets: 1, service: 300_000}
	score, methods := heardSim(t, 3, o, func(rng *rand.Rand, words []saidWord) {
		for i := range words {
			words[i].Upstream = words[rng.IntN(len(words))].Upstream
		}
	})
	t.Logf("%+v %v", score, methods)
	if n := score.right + score.wrong + score.apart + score.others; n != o.requests || score.apart < o.requests/2 {
		t.Errorf("%d of %d requests are given out: %+v", n, o.requests, score)
	}
}

func TestSpeakersAreBounded(t *testing.T) {
	w := newWorld(t)
	said := journey.Said{Downstream: journey.Connection{Local: port(1), Remote: port(2)}, Upstream: journey.Connection{Local: port(3), Remote: port(4)}, Start: 1}
	w.j.Say(&said)
	if len(w.j.words.all) != 0 {
		t.Error("it is heard without being asked to")
	}
	w.j.cfg.Hear = time.Second
	w.j.Say(&said) // by nobody
	for pid := range 2 * maxSpeakers {
		said.By.Pid = pid + 1
		w.j.Say(&said)
	}
	for range 2 * maxWords {
		said.By.Pid, said.Start = 1, said.Start+1
		w.j.Say(&said)
	}
	if n := len(w.j.words.all); n != maxWords || len(w.j.words.in[(&word{Said: said}).inPlace()].list) != maxWordsPlace || len(w.j.words.speakers) != maxSpeakers {
		t.Errorf("%d words, %d of the connection, %d speakers", n, len(w.j.words.in[(&word{Said: said}).inPlace()].list), len(w.j.words.speakers))
	}
	if n := lossOf(&w.lost, "relay", "speaker-not-known"); n != 1+maxSpeakers {
		t.Errorf("%d are counted", n)
	}
	w.j.now += uint64(time.Hour)
	w.j.forgetWords()
	if len(w.j.words.all)+len(w.j.words.in)+len(w.j.words.out)+len(w.j.words.speakers) != 0 {
		t.Errorf("something stays: %d %d %d", len(w.j.words.all), len(w.j.words.in), len(w.j.words.out))
	}
}

func lossOf(set *loss.Set, stage, reason string) uint64 { return set.Counter(stage, reason).Value() }
