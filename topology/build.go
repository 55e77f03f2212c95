package topology

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// maxVersions is how many owners of one address are remembered: a crash loop with a new name each time has no more in a
// request's lifetime.
const maxVersions = 32

// Rank is how good a source's word on a workload is. Of one that several sources name, the strongest word counts.
type Rank int

// The ranks, weakest first.
const (
	Hearsay Rank = iota // somebody else's list has it: an EndpointSlice
	Told                // who keeps the list of workloads says so: a control plane, a file
	Seen                // it is the object itself: a pod as the API server has it
	ranks
)

// Builder collects what sources learn and makes Stores of it. It is safe for concurrent use. A workload has one name, whichever source
// tells of it; sources that speak of the same workload under the same name do so at different ranks.
type Builder struct {
	network string
	keep    uint64

	mu        sync.Mutex
	told      map[string]*[ranks]*Entry
	owners    map[string]*owner
	services  map[string]*Service
	byAddr    map[netip.Addr][]version
	resources map[Ref]*Resource
	serial    uint64
}

// NewBuilder makes a Builder that knows nobody. network is the Istio network that addresses on this node are of, empty: any.
// keep is for how long, in ns, it is remembered who had an address.
func NewBuilder(network string, keep uint64) *Builder {
	return &Builder{
		network: network, keep: keep, told: map[string]*[ranks]*Entry{}, owners: map[string]*owner{}, services: map[string]*Service{},
		byAddr: map[netip.Addr][]version{}, resources: map[Ref]*Resource{},
	}
}

// Set adds an entry or replaces the one of this name, as Told. The Builder owns it from then on.
func (b *Builder) Set(name string, e Entry, m Moment) { b.SetRanked(name, Told, e, m) }

// SetRanked is Set with another rank.
func (b *Builder) SetRanked(name string, rank Rank, e Entry, m Moment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, addr := range e.Addresses {
		e.Addresses[i] = plain(addr)
	}
	said := b.told[name]
	if said == nil {
		said = &[ranks]*Entry{}
		b.told[name] = said
	}
	said[rank] = &e
	b.put(name, merge(said), m)
}

// merge is the strongest word, and of weaker ones what it leaves open.
func merge(said *[ranks]*Entry) (e Entry) {
	found := false
	for rank := ranks - 1; rank >= 0; rank-- {
		switch word := said[rank]; {
		case word == nil:
		case !found:
			e, found = *word, true
		default:
			e.fill(word)
		}
	}
	return e
}

// fill takes what is empty from another word on the same workload. Addresses and names are the stronger one's alone.
func (e *Entry) fill(from *Entry) {
	w, f := &e.Workload, &from.Workload
	for _, field := range [...]struct {
		into *string
		from string
	}{
		{&w.Kind, f.Kind}, {&w.UID, f.UID}, {&w.Node, f.Node}, {&w.Role, f.Role}, {&w.Revision, f.Revision}, {&w.Account, f.Account},
		{&w.Cluster, f.Cluster}, {&w.Network, f.Network}, {&w.Region, f.Region}, {&w.Zone, f.Zone},
	} {
		*field.into = cmp.Or(*field.into, field.from)
	}
	if len(e.Ports) == 0 {
		e.Ports = from.Ports
	}
	if len(e.Services) == 0 {
		e.Services = from.Services
	}
	if e.Labels == nil {
		e.Labels = from.Labels
	}
}

// put makes an entry the one of its name.
func (b *Builder) put(name string, e Entry, m Moment) {
	before, now := b.owners[name], &owner{name, e}
	b.owners[name] = now
	if before != nil && before.answers(now) {
		return // what changed is nothing that Lookup looks at
	}
	b.leave(before, e.Addresses, m)
	for _, addr := range e.Addresses {
		b.change(addr, name, now, m)
	}
}

// answers says whether Lookup finds the same in both.
func (o *owner) answers(other *owner) bool {
	return o.Workload == other.Workload && o.Shared == other.Shared && slices.Equal(o.Ports, other.Ports) && slices.Equal(o.Addresses, other.Addresses)
}

// Remove forgets the entry of this name, as RemoveRanked does of Told.
func (b *Builder) Remove(name string, m Moment) { b.RemoveRanked(name, Told, m) }

// RemoveRanked forgets the word of this rank on the entry of this name, and weaker ones with an address of it: they only have not
// heard yet. One with other addresses is of a successor with the same name. That it had its addresses is not forgotten.
func (b *Builder) RemoveRanked(name string, rank Rank, m Moment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	said := b.told[name]
	if said == nil || said[rank] == nil {
		return
	}
	for weaker := range rank {
		if w := said[weaker]; w != nil && w.shares(said[rank]) {
			said[weaker] = nil
		}
	}
	said[rank] = nil
	if *said != ([ranks]*Entry{}) {
		b.put(name, merge(said), m)
		return
	}
	b.leave(b.owners[name], nil, m)
	delete(b.owners, name)
	delete(b.told, name)
}

// shares says whether both have an address.
func (e *Entry) shares(other *Entry) bool {
	return slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return slices.Contains(other.Addresses, a) })
}

// leave takes an owner, or nil, off its addresses but those that it keeps.
func (b *Builder) leave(o *owner, keeps []netip.Addr, m Moment) {
	if o == nil {
		return
	}
	for _, addr := range o.Addresses {
		if !slices.Contains(keeps, addr) {
			b.change(addr, o.name, nil, m)
		}
	}
}

// change takes the owner of this name off an address, and puts its new state there, unless that is nil.
func (b *Builder) change(addr netip.Addr, name string, now *owner, m Moment) {
	versions := b.byAddr[addr]
	next := version{from: m.At, since: min(m.Since, m.At)}
	found := false
	if n := len(versions); n > 0 {
		next.from = max(m.At, versions[n-1].from) // a source that comes later knows nothing of what others saw before
		for _, o := range versions[n-1].owners {
			if o.name == name {
				found = true
			} else {
				next.owners = append(next.owners, o)
			}
		}
	}
	if comes := now != nil && single(addr) && b.local(now.Workload.Network); comes {
		next.owners = append(next.owners, now)
	} else if !found {
		return
	}
	switch n := len(versions); {
	case n > 0 && versions[n-1].from == next.from: // one change of several
		next.since = min(next.since, versions[n-1].since)
		versions = slices.Clone(versions[:n-1])
	case n >= maxVersions:
		versions = versions[1:]
	}
	b.byAddr[addr] = append(versions, next) // Stores look no further than their own length
}

// single says whether an address can be one workload's.
func single(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsMulticast()
}

// local says whether addresses of a network are this node's.
func (b *Builder) local(network string) bool { return b.network == "" || network == b.network }

// SetService adds a service or replaces the one of this name. The Builder owns it from then on.
func (b *Builder) SetService(name string, s Service) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.services[name] = &s
}

// RemoveService forgets the service of this name.
func (b *Builder) RemoveService(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.services, name)
}

// Store is the state now. It costs a few ms with 10,000 workloads, so ask once for many changes.
func (b *Builder) Store(now uint64) *Store {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(now)
	b.serial++
	s := &Store{
		serial:   b.serial,
		byAddr:   maps.Clone(b.byAddr),
		owners:   slices.Collect(maps.Values(b.owners)),
		services: slices.Collect(maps.Values(b.services)),
		byVIP:    map[netip.Addr][]*Service{},

		resources: maps.Clone(b.resources),
	}
	for _, versions := range s.byAddr {
		if len(versions[len(versions)-1].owners) > 0 {
			s.owned++
		}
	}
	for _, service := range s.services {
		for _, vip := range service.Addresses {
			if addr := plain(vip.Addr); single(addr) && b.local(vip.Network) {
				s.byVIP[addr] = append(s.byVIP[addr], service)
			}
		}
	}
	return s
}

// forget drops what ended longer ago than anybody asks for.
func (b *Builder) forget(now uint64) {
	for addr, versions := range b.byAddr {
		past := 0 // versions that ended
		for past+1 < len(versions) && versions[past+1].from+b.keep < now {
			past++
		}
		last := versions[len(versions)-1]
		switch {
		case len(last.owners) == 0 && last.from+b.keep < now:
			delete(b.byAddr, addr)
		case past > 0:
			b.byAddr[addr] = slices.Clone(versions[past:])
		}
	}
}
