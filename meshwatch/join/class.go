package join

import "slices"

// classKey is what decides where a proxy sends a request: the address that its client meant, and the host.
type classKey struct {
	addr [16]byte
	port uint16
	host uint64
}

// class is the requests of one key: they go to one pool, or it is not known to which.
type class struct {
	pool  *pool
	multi bool

	open  []ref  // for what connections were opened on which nothing was asked yet, in the order of that
	queue []ref  // what was read, and neither handed on nor given a connection that was opened for it
	moved uint64 // ns: when it was last set right, see skip
}

// poolKey is an upstream host.
type poolKey struct {
	addr [16]byte
	port uint16
}

// upstream is what a pool knows of one of its connections.
type upstream struct {
	of      *pool   // that knows it; of another worker, if that opened it and handed it over
	lane    []guess // the requests that it will hand on: of HTTP/1 one
	known   bool    // it is in pool.idle
	opens   bool    // it is in pool.opening
	freed   uint64  // ns: since when it is free, at the earliest
	until   uint64  // ns: and at the latest
	given   int     // requests that go on by it, or did, as far as is known
	astray  bool    // nobody knows who has taken it
	vague   bool    // it or another one was to be taken, nobody knows which
	counted bool    // see rooms
	used    bool    // a request was seen on it

	opened  guess // the request that it was opened for, until one is seen on it
	certain bool  // it was, as far as is known

	streams streams
}

// forget leaves what no model has to do with.
func (u *upstream) forget() {
	*u = upstream{of: u.of, lane: u.lane[:0], used: u.used, opens: u.opens, opened: u.opened, certain: u.certain, streams: u.streams}
}

// next is what a connection will hand on next.
func (u *upstream) next() *guess {
	if len(u.lane) == 0 {
		return &guess{}
	}
	return &u.lane[0]
}

func (w *worker) class(y *Exchange) *class {
	f := y.Req.Flight
	key := classKey{f.SendPaddr, f.SendPeer, y.host}
	c := w.classes[key]
	if c == nil {
		c = &class{}
		w.classes[key] = c
	}
	y.class = c
	return c
}

func (w *worker) poolOf(x *Exchange) *pool {
	f := x.Req.Flight
	return w.poolAt(poolKey{f.SendPaddr, f.SendPeer})
}

func (w *worker) poolAt(key poolKey) *pool {
	p := w.pools[key]
	if p == nil {
		p = &pool{}
		w.pools[key] = p
	}
	return p
}

// answered is told of a request that was answered. One that was not handed on as foretold shows that the model is wrong.
func (c *class) answered(y *Exchange) {
	if l := y.lane; l != nil && c.pool != nil {
		y.lane = nil
		if slices.ContainsFunc(l.up.lane, func(g guess) bool { return g.of() == y }) {
			c.pool.fail(y.Resp.StartNs)
		}
	}
	switch {
	case c.pool == nil:
	case y.waits:
		y.waits = false
		c.pool.waiting = slices.DeleteFunc(c.pool.waiting, func(g guess) bool { return g.of() == y })
	case y.unknown:
		y.unknown = false
	}
}
