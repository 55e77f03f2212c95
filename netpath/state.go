package netpath

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// State is the node's datapath at one moment. It is immutable and safe for concurrent use; the zero value is empty.
type State struct {
	Namespaces map[uint32]*Namespace // by inode number
	// Gone are namespaces that went a short while ago (see GoneFor), for records that are read late.
	Gone map[uint32]*Namespace

	places    map[uint32]place // by compact netns<<14 | compact ifindex, ifindex 0 for the namespace itself
	conflicts []Conflict
}

// lowBits is how much of a namespace's and of a link's number a stamp keeps.
const lowBits = 14

// Low is the compact form of a namespace's or a link's number, as a stamp has it. The base 0xF0000000 of namespace
// numbers is a multiple of 2^14, so it makes no difference; nor do kernels (6.18) whose first namespace lies below it.
func Low(n uint32) uint16 { return uint16(n & (1<<lowBits - 1)) }

type place struct {
	netns, ifindex uint32
	ambiguous      bool
}

// Conflict is two or more live places that share the low bits of their numbers, so that stamps cannot tell them apart.
type Conflict struct {
	Netns   []uint32 `json:"netns"`             // one, when links conflict
	Ifindex []uint32 `json:"ifindex,omitempty"` // empty, when namespaces conflict
}

// NewState makes a state of namespaces, which must not be changed afterwards.
func NewState(live, gone []*Namespace) *State {
	s := &State{
		Namespaces: make(map[uint32]*Namespace, len(live)),
		Gone:       make(map[uint32]*Namespace, len(gone)),
		places:     make(map[uint32]place, 4*len(live)),
	}
	for _, n := range live {
		s.Namespaces[n.Inum] = n
	}
	for _, n := range gone {
		if s.Namespaces[n.Inum] == nil {
			s.Gone[n.Inum] = n
		}
	}
	s.index(s.Namespaces)
	s.conflicts = s.findConflicts()
	s.index(s.Gone) // these yield to live ones
	return s
}

// index enters places; of namespaces already indexed under the same low bits only live ones make a conflict.
func (s *State) index(namespaces map[uint32]*Namespace) {
	for inum, n := range namespaces {
		key := uint32(Low(inum)) << lowBits
		if old, taken := s.places[key]; taken && s.Namespaces[inum] == nil && s.Namespaces[old.netns] != nil {
			continue
		}
		s.put(key, place{netns: inum})
		for i := range n.Links {
			s.put(key|uint32(Low(n.Links[i].Index)), place{netns: inum, ifindex: n.Links[i].Index})
		}
	}
}

func (s *State) put(key uint32, p place) {
	if old, taken := s.places[key]; taken {
		p = place{ambiguous: true}
		if old.netns == s.places[key&^(1<<lowBits-1)].netns {
			p.netns = old.netns // only the link is ambiguous
		}
	}
	s.places[key] = p
}

// Resolve tells the place that a stamp's low bits mean, in constant time. ok is false when nothing or more than one thing
// has them; then what is known is returned and the rest is 0. An ifindex of 0 stays 0: the hook knew no link.
func (s *State) Resolve(netns14, ifindex14 uint16) (netns, ifindex uint32, ok bool) {
	key := uint32(Low(uint32(netns14))) << lowBits
	n, known := s.places[key]
	if !known || n.ambiguous {
		return 0, 0, false
	}
	if ifindex14 == 0 {
		return n.netns, 0, true
	}
	l, known := s.places[key|uint32(Low(uint32(ifindex14)))]
	if !known || l.ambiguous {
		return n.netns, 0, false
	}
	return l.netns, l.ifindex, true
}

// Conflicts are the live places that Resolve refuses, empty nearly always.
func (s *State) Conflicts() []Conflict { return s.conflicts }

func (s *State) findConflicts() []Conflict {
	var out []Conflict
	for _, same := range groups(slices.Collect(maps.Keys(s.Namespaces))) {
		out = append(out, Conflict{Netns: same})
	}
	for _, n := range s.Sorted() {
		indexes := make([]uint32, len(n.Links))
		for i := range n.Links {
			indexes[i] = n.Links[i].Index
		}
		for _, same := range groups(indexes) {
			out = append(out, Conflict{Netns: []uint32{n.Inum}, Ifindex: same})
		}
	}
	return out
}

// groups are the numbers that share low bits with another one.
func groups(numbers []uint32) [][]uint32 {
	slices.SortFunc(numbers, func(a, b uint32) int { return cmp.Or(cmp.Compare(Low(a), Low(b)), cmp.Compare(a, b)) })
	var out [][]uint32
	for i := 0; i < len(numbers); {
		j := i + 1
		for j < len(numbers) && Low(numbers[j]) == Low(numbers[i]) {
			j++
		}
		if j-i > 1 {
			out = append(out, slices.Clone(numbers[i:j]))
		}
		i = j
	}
	return out
}

// Namespace is the live namespace with that inode number, else one just gone, else nil.
func (s *State) Namespace(inum uint32) *Namespace {
	if n := s.Namespaces[inum]; n != nil {
		return n
	}
	return s.Gone[inum]
}

// Named is the live namespace of that name, nil when there is none.
func (s *State) Named(name string) *Namespace {
	for _, n := range s.Sorted() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Sorted are the live namespaces, the host's first, then by name.
func (s *State) Sorted() []*Namespace {
	return slices.SortedFunc(maps.Values(s.Namespaces), func(a, b *Namespace) int {
		if a.Host != b.Host {
			if a.Host {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Inum, b.Inum))
	})
}

// Link is the link at a place, nil when it is not known.
func (s *State) Link(netns, ifindex uint32) *Link {
	if n := s.Namespace(netns); n != nil && ifindex != 0 {
		return n.Link(ifindex)
	}
	return nil
}

// Describe names a place for people: "frontend eth0 egress", "node iptables FORWARD".
func (s *State) Describe(netns, ifindex uint32, hook Hook) string {
	where := fmt.Sprintf("netns %d", netns)
	if n := s.Namespace(netns); n != nil {
		where = n.Name
	}
	if table := hookTables[min(hook, HookNone+hookCount-1)]; table != "" {
		return where + " " + table
	}
	if l := s.Link(netns, ifindex); l != nil {
		where += " " + l.Name
	} else if ifindex != 0 {
		where = fmt.Sprintf("%s link %d", where, ifindex)
	}
	return where + " " + hook.String()
}

var hookTables = [hookCount]string{
	HookOutput: "iptables OUTPUT", HookPostrouting: "iptables POSTROUTING", HookForward: "iptables FORWARD",
	HookInput: "iptables INPUT", HookDelivered: "socket",
}
