package join

import "slices"

// line has the requests for one thing that a worker has read and not handed on yet, in the order in which it read them. HAProxy's
// threads hand them on in that order, and on one HTTP/2 connection everybody does.
type line struct {
	waiting []guess
	open    int    // that were not answered
	class   *class // of the latest
	moved   uint64 // ns: when it was last set right, see check
	streams *streams
}

func (w *worker) line(x *Exchange, c *class) *line {
	l := w.lines[x.what()]
	if l == nil {
		l = &line{}
		w.lines[x.what()] = l
	}
	l.class = c
	return l
}

func (l *line) asked(y *Exchange) {
	n := len(l.waiting)
	l.waiting = append(l.waiting, guess{})
	for ; n > 0 && l.waiting[n-1].of() != nil && l.waiting[n-1].y.Req.RecvNs > y.Req.RecvNs; n-- { // it came late
		l.waiting[n] = l.waiting[n-1]
	}
	l.waiting[n] = guess{ref: refTo(y)}
	l.open++
}

// asks takes the one at a place of the line for what the worker asks.
func (l *line) asks(x *Exchange, at int, late bool) {
	l.waiting = slices.DeleteFunc(l.waiting, func(g guess) bool { return g.of() == nil })
	if at >= len(l.waiting) {
		return
	}
	choice := len(l.waiting) > 1
	x.inOrder = l.take(at)
	x.inOrder.choice, x.inOrder.shaky = choice, late
}

// check says whether x may have been asked for what it was taken for: that was not answered before x was. Else something that the worker
// asked was missed, so that each took the place of the one before; the line goes on by one, for what is asked from then on.
func (l *line) check(x *Exchange) bool {
	y := x.inOrder.of()
	if y == nil || y.Resp == nil || y.Resp.StartNs >= x.Resp.RecvNs {
		return true
	}
	if x.Req.StartNs > l.moved && len(l.waiting) > 0 {
		l.take(0)
		l.streams.lost(0)
		l.moved = x.Resp.RecvNs
	}
	return false
}

// take takes one out of the line.
func (l *line) take(at int) guess {
	g := l.waiting[at]
	l.waiting = slices.Delete(l.waiting, at, at+1)
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
	for i := range l.waiting {
		if l.waiting[i].of() == y {
			l.take(i)
			l.streams.lost(i)
			break
		}
	}
	return l.open <= 0
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

// guess is who may have caused an exchange, says a model.
type guess struct {
	ref
	choice bool // there were others
	shaky  bool // some of what it rests on came late
	waited bool // it had to wait for a connection
}
