package join

import "slices"

// line has the requests for one thing that a worker has read and not handed on yet, in the order in which it read them. HAProxy's
// threads hand them on in that order, and on one HTTP/2 connection everybody does.
type line struct {
	waiting []guess
	chosen  bool   // one of several was taken out, so that the others are what is left of a choice
	open    int    // that were not answered
	class   *class // of the latest
	moved   uint64 // ns: when it was last set right, see check
	streams *streams
}

func (w *worker) line(x *Exchange, c *class) *line {
	l := w.lines[x.what()]
	if l == nil {
		if l = w.spare; l != nil {
			*l, w.spare = line{waiting: l.waiting[:0]}, nil
		} else {
			l = &line{}
		}
		w.lines[x.what()] = l
	}
	l.class = c
	return l
}

func (l *line) asked(y *Exchange) {
	l.waiting = insert(l.waiting, guess{ref: refTo(y)}, func(g guess) *Exchange { return g.of() })
	l.open++
}

// insert puts a request, of which some came late, among others in the order of reading.
func insert[T any](in []T, one T, of func(T) *Exchange) []T {
	n := len(in)
	in = append(in, one)
	for y := of(one); n > 0 && of(in[n-1]) != nil && of(in[n-1]).Req.RecvNs > y.Req.RecvNs; n-- {
		in[n] = in[n-1]
	}
	in[n] = one
	return in
}

// asks takes the one at a place of the line for what the worker asks.
func (l *line) asks(x *Exchange, at int, late bool) {
	for i := 0; i <= at; i++ { // further behind some may be gone, too: a line may be long
		for i < len(l.waiting) && l.waiting[i].of() == nil {
			l.take(i)
		}
	}
	if at >= len(l.waiting) {
		return
	}
	choice := l.chosen || len(l.waiting) > 1
	x.inOrder = l.take(at)
	l.chosen = choice && len(l.waiting) > 0
	x.inOrder.choice, x.inOrder.shaky = choice, late
	if y := x.inOrder.of(); y != nil {
		y.handed = true
	}
}

// check says whether x may have been asked for what it was taken for: that was not answered before x was. Else something that the worker
// asked was missed, so that each took the place of the one before; the line goes on by one, for what is asked from then on.
func (l *line) check(x *Exchange) bool {
	y := x.inOrder.of()
	if !y.answeredBefore(x) {
		return true
	}
	if x.byOpening {
		y.class.skip(x)
	} else if x.Req.StartNs > l.moved && len(l.waiting) > 0 {
		l.take(0)
		l.streams.lost(0)
		l.moved = x.Resp.RecvNs
	}
	return false
}

// answeredBefore says whether y was answered before x, which it is taken for the cause of: it is not.
func (y *Exchange) answeredBefore(x *Exchange) bool {
	return y != nil && y.Resp != nil && y.Resp.StartNs < x.Resp.RecvNs
}

// take takes one out of the line.
func (l *line) take(at int) guess {
	g := l.waiting[at]
	if at == 0 {
		l.waiting = l.waiting[1:]
	} else {
		l.waiting = slices.Delete(l.waiting, at, at+1)
	}
	return g
}

// only is the line to a pool, if there is one that has requests which are not answered; nil: none, or several, or too many to look.
func (w *worker) only(p *pool) (l *line) {
	if len(w.lines) > fewLines {
		return nil
	}
	for _, m := range w.lines {
		switch {
		case m.open == 0 || m.class.pool != p && m.class.pool != nil:
		case l != nil:
			return nil
		default:
			l = m
		}
	}
	return l
}

const fewLines = 16

// answered takes one out that was not handed on, or of which that was not seen. True: nothing is left.
func (l *line) answered(y *Exchange) bool {
	l.open--
	y.handed = true
	if i := l.drop(y); i >= 0 {
		l.streams.lost(i)
	}
	return l.open <= 0
}

// drop takes a request out of the line; it returns its place, -1: it had none.
func (l *line) drop(y *Exchange) int {
	i := slices.IndexFunc(l.waiting, func(g guess) bool { return g.of() == y })
	if i >= 0 {
		l.take(i)
	}
	return i
}

// ref is an exchange that may be given out, and be another one then: with another serial.
type ref struct {
	y      *Exchange
	serial uint64
}

func refTo(y *Exchange) ref { return ref{y, y.serial} }

// of returns the exchange, nil: none, or it is gone.
func (r ref) of() *Exchange {
	if r.y == nil || r.y.serial != r.serial {
		return nil
	}
	return r.y
}

// isGone says whether it cannot be: the exchange is given out.
func (g *guess) isGone() bool { return g.of() == nil && !g.unseen }

// guess is who may have caused an exchange, says a model.
type guess struct {
	ref
	choice bool // there were others
	shaky  bool // some of what it rests on came late
	waited bool // it had to wait for a connection
	among  bool // while others were foretold, too
	unseen bool // one that was not seen, but what the worker did for it: y is nil
	vague  bool // then it may be one of these
}
