package netpath

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Select are the live namespaces that a word means, in the order of Sorted: an inode number, a pid, a name, or a pattern of
// names (path.Match); all for the empty word. The values carry json tags, for output by program.
func (s *State) Select(word string) []*Namespace {
	var out []*Namespace
	number, notNumber := strconv.ParseUint(word, 10, 32)
	for _, n := range s.Sorted() {
		matched, _ := path.Match(word, n.Name)
		isNumber := notNumber == nil && (uint64(n.Inum) == number || slices.Contains(n.Pids, int(number))) //nolint:gosec // 32 bits
		if word == "" || word == n.Name || matched || isNumber {
			out = append(out, n)
		}
	}
	return out
}

// Table writes the selected namespaces for people: links with what is at their other end, rules by hook, redirects.
func (s *State) Table(w io.Writer, word string) error {
	for i, n := range s.Select(word) {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := s.table(w, n); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) table(w io.Writer, n *Namespace) error {
	facts := []string{fmt.Sprintf("inode %d", n.Inum), fmt.Sprintf("%d processes", n.Processes)}
	for _, f := range []struct {
		on   bool
		name string
	}{{n.Forwards, "forwards IPv4"}, {n.Forwards6, "forwards IPv6"}, {n.BridgeNF, "bridged packets pass iptables"}} {
		if f.on {
			facts = append(facts, f.name)
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "%s (%s)\n", n.Name, strings.Join(facts, ", ")) //nolint:errcheck // kept by tw until Flush
	if n.Problem != "" {
		fmt.Fprintf(tw, "  problem: %s\n", n.Problem) //nolint:errcheck // as above
	}
	if len(n.Links) > 0 {
		fmt.Fprintln(tw, "  LINK\tKIND\tSTATE\tMTU\tMASTER\tOTHER END\tADDRESSES") //nolint:errcheck // as above
	}
	for i := range n.Links {
		l := &n.Links[i]
		fmt.Fprintf(tw, "  %d: %s\t%s\t%s\t%d\t%s\t%s\t%s\n", l.Index, l.Name, l.Kind, upDown(l.Up), l.MTU, //nolint:errcheck // as above
			s.linkName(n, n.Inum, l.Master), s.otherEnd(n, l), addresses(l))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return filterTable(w, &n.Filter)
}

func filterTable(w io.Writer, f *Filter) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(f.Hooks) > 0 {
		fmt.Fprintln(tw, "  RULES AT\tFAMILY\tBACKEND\tBASE CHAINS\tRULES\tWITH JUMPS") //nolint:errcheck // kept by tw until Flush
	}
	for _, h := range f.Hooks {
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%d\t%d\t%d\n", h.Hook, h.Family, h.Backend, h.Chains, h.Rules, h.Reached) //nolint:errcheck // as above
	}
	if len(f.Redirects) > 0 {
		fmt.Fprintf(tw, "  redirects to local ports %s\n", ports(f.Redirects)) //nolint:errcheck // as above
	}
	if f.Problem != "" {
		fmt.Fprintf(tw, "  rules problem: %s\n", f.Problem) //nolint:errcheck // as above
	}
	return tw.Flush()
}

// otherEnd names what is at the far end of a veth, or below a link; "?" when that is not in a namespace we know.
func (s *State) otherEnd(n *Namespace, l *Link) string {
	far := max(l.Peer, l.Parent)
	switch {
	case far == 0:
		return ""
	case l.PeerNetns == 0:
		return "?"
	}
	return s.linkName(n, l.PeerNetns, far)
}

// linkName is a link as seen from n: with its namespace where that is another one.
func (s *State) linkName(n *Namespace, netns, ifindex uint32) string {
	if ifindex == 0 {
		return ""
	}
	name := fmt.Sprintf("link %d", ifindex)
	if l := s.Link(netns, ifindex); l != nil {
		name = l.Name
	}
	if other := s.Namespace(netns); other != nil && netns != n.Inum {
		name = other.Name + " " + name
	}
	return name
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func addresses(l *Link) string {
	parts := make([]string, len(l.Addrs))
	for i, a := range l.Addrs {
		parts[i] = a.String()
	}
	return strings.Join(parts, " ")
}

func ports(ps []uint16) string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = strconv.Itoa(int(p))
	}
	return strings.Join(parts, ", ")
}
