package verdict

import "github.com/meshwatch/meshwatch/meshwatch/journey"

// where names the workload or hop with most own time of a class. Socket waits count for the process that must read.
func where(j *journey.Journey, pieces []piece, winner class) string {
	var stack [128]slot
	table := stack[:]
	count := 0
	for k := range pieces {
		if pieces[k].class == winner && pieces[k].own > 0 {
			count++
		}
	}
	for count > len(table)*3/4 {
		table = make([]slot, 2*len(table))
	}
	var best *slot
	for k := range pieces {
		p := &pieces[k]
		if p.class != winner || p.own == 0 {
			continue
		}
		s := find(table, j, pieces, int32(k)) //nolint:gosec // far below 2^31
		s.own += p.own
		if best == nil || s.own > best.own {
			best = s
		}
	}
	if best == nil {
		return ""
	}
	k := keyOf(j, &pieces[best.piece-1])
	if k.hop != nil {
		return k.hop.Place()
	}
	return k.name
}

// slot sums the own time of one place; small, as a table of them is zeroed for every journey.
type slot struct {
	own   uint64 // ns
	hash  uint32
	piece int32 // 1 + index of a piece at this place; 0: free
}

// key is a place: a process by its workload (hop nil), or a hop.
type key struct {
	name string
	hop  *journey.Hop
}

func keyOf(j *journey.Journey, p *piece) key {
	e := j.Exchanges[p.exchange]
	end := &e.Leg.Server
	switch p.part {
	case Processing:
		return key{name: endName(end)}
	case Response:
		end = &e.Leg.Client
	}
	h := hopOf(e, p)
	if h.Kind == "socket-wait" {
		return key{name: endName(end)}
	}
	return key{name: h.Name, hop: h}
}

func endName(e *journey.End) string {
	if n := e.Name(); n != "" {
		return n
	}
	return string(e.Role)
}

func hopOf(e *journey.Exchange, p *piece) *journey.Hop {
	switch p.part {
	case Connect:
		return &e.Connect.Hops[p.hop]
	case Response:
		return &e.Response.Hops[p.hop]
	}
	return &e.Request.Hops[p.hop]
}

func (k *key) same(o *key) bool {
	if k.name != o.name || (k.hop == nil) != (o.hop == nil) {
		return false
	}
	return k.hop == nil || k.hop == o.hop || k.hop.Netns == o.hop.Netns && k.hop.Iface == o.hop.Iface && k.hop.Net == o.hop.Net
}

func (k *key) hash() uint32 {
	h := uint32(len(k.name)) * 0x9e3779b1 //nolint:gosec // a hash
	if n := len(k.name); n > 0 {
		h += uint32(k.name[n-1]) * 0x27d4eb2f
	}
	if k.hop != nil {
		h ^= k.hop.Netns*0x85ebca6b + uint32(len(k.hop.Iface))*0xc2b2ae35 //nolint:gosec // a hash
	}
	return h ^ h>>15
}

// find is open addressing in a table that is never full; its length is a power of two.
func find(table []slot, j *journey.Journey, pieces []piece, p int32) *slot {
	k := keyOf(j, &pieces[p])
	h := k.hash()
	mask := uint32(len(table) - 1) //nolint:gosec // a few hundred
	for i := h & mask; ; i = (i + 1) & mask {
		s := &table[i]
		if s.piece == 0 {
			s.piece, s.hash = p+1, h
			return s
		}
		if s.hash != h {
			continue
		}
		if o := keyOf(j, &pieces[s.piece-1]); o.same(&k) {
			return s
		}
	}
}
