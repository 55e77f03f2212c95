package join

// line has the requests for one thing that a worker has read and not handed on yet, in the order in which it read them. HAProxy's
// threads hand them on in that order, and on one HTTP/2 connection everybody does.
type line struct {
	waiting []*Exchange
	open    int    // that were not answered
	class   *class // of the latest
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
	l.waiting = append(l.waiting, y)
	l.open++
}

// asks takes the next of the line for what the worker asks.
func (l *line) asks(x *Exchange, late bool) {
	if len(l.waiting) == 0 {
		return
	}
	y := l.waiting[0]
	x.inOrder = guess{y, y.serial, len(l.waiting) > 1, late}
	l.waiting = append(l.waiting[:0], l.waiting[1:]...)
}

// answered takes one out that was not handed on, or of which that was not seen. True: nothing is left.
func (l *line) answered(y *Exchange) bool {
	l.open--
	for i, z := range l.waiting {
		if z == y {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			break
		}
	}
	return l.open <= 0
}

// guess is who may have caused an exchange, says a model.
type guess struct {
	y      *Exchange
	serial uint64 // of y: it may have been given out
	choice bool   // there were others
	shaky  bool   // some of what it rests on came late
}

// of returns the exchange, nil: none, or it is gone.
func (g *guess) of() *Exchange {
	if g.y == nil || g.y.serial != g.serial {
		return nil
	}
	return g.y
}
