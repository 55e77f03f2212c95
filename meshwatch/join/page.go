package join

import "github.com/meshwatch/meshwatch/bpf"

// page holds flights and the bytes captured of them, as they came, one after the other: the CPU foresees where the next are written.
type page struct {
	owners  [pageFlights]*Message // nil: not needed any more
	heads   []byte                // of all
	n, live int                   // flights on it, and needed
	ends    [pageFlights]uint32   // of each one's bytes in heads
	flights [pageFlights]bpf.Flight
}

const (
	pageFlights = 64
	pageBytes   = pageFlights * 512 // of heads; more only where one message has more
)

// pages are a Joiner's. As many are made as were needed at one time: what stays for long on a page that is nearly empty is moved.
type pages struct {
	all  []*page
	free []*page
	cur  *page
	hand int // in all: where to look next for one that is nearly empty
}

// put copies a flight and the bytes captured of it; they are m's until drop.
func (s *pages) put(m *Message, f *bpf.Flight, b []byte) {
	p := s.cur
	if p == nil || p.n > 0 && (p.n == pageFlights || len(p.heads)+len(b) > cap(p.heads)) {
		p = s.turn()
	}
	p.flights[p.n] = *f
	p.heads = append(p.heads, b...)
	p.ends[p.n] = uint32(len(p.heads)) //nolint:gosec // some kilobytes
	p.give(p.n, m)
	p.n++
	p.live++
}

// give says whose a slot is.
func (p *page) give(slot int, m *Message) {
	p.owners[slot] = m
	m.page, m.slot, m.Flight = p, uint8(slot), &p.flights[slot] //nolint:gosec // below pageFlights
}

// captured are the bytes captured of a message.
func (m *Message) captured() []byte {
	from := uint32(0)
	if m.slot > 0 {
		from = m.page.ends[m.slot-1]
	}
	return m.page.heads[from:m.page.ends[m.slot]]
}

// drop gives back what a message has on a page.
func (s *pages) drop(m *Message) {
	p := m.page
	p.owners[m.slot], m.page, m.Flight = nil, nil, nil
	if p.live--; p.live > 0 {
		return
	}
	p.n, p.heads = 0, p.heads[:0]
	if p != s.cur {
		s.free = append(s.free, p)
	}
}

// turn finds a page with room.
func (s *pages) turn() *page {
	if n := len(s.free); n > 0 {
		s.cur, s.free = s.free[n-1], s.free[:n-1]
		return s.cur
	}
	for range min(len(s.all), looksForRoom) {
		s.hand = (s.hand + 1) % len(s.all)
		if p := s.all[s.hand]; p.live <= pageFlights/4 {
			p.squeeze()
			s.cur = p
			return p
		}
	}
	s.cur = &page{heads: make([]byte, 0, pageBytes)}
	s.all = append(s.all, s.cur)
	return s.cur
}

const looksForRoom = 8 // pages, before there is one more

// squeeze moves what is still needed to the page's front.
func (p *page) squeeze() {
	n, from := 0, uint32(0)
	kept := p.heads[:0]
	for i, m := range p.owners[:p.n] {
		end := p.ends[i]
		if m != nil {
			p.flights[n] = p.flights[i]
			kept = append(kept, p.heads[from:end]...)
			p.ends[n] = uint32(len(kept)) //nolint:gosec // some kilobytes
			p.give(n, m)
			n++
		}
		from = end
	}
	clear(p.owners[n:p.n])
	p.n, p.heads = n, kept
}
