package netpath

import (
	"cmp"
	"slices"
)

// Filter is what netfilter rules a namespace has. The zero value: none.
type Filter struct {
	Hooks     []HookRules `json:"hooks,omitempty"`              // those with a base chain, in the order of packets, families apart
	Redirects []uint16    `json:"redirects,omitempty"`          // local ports that rules send traffic to (REDIRECT, TPROXY), ascending
	Outbound  []uint16    `json:"outbound_redirects,omitempty"` // those of them that rules send to only what leaves local sockets (OUTPUT), ascending
	Problem   string      `json:"problem,omitempty"`            // why rules could not be read, or not all
}

// HookRules counts what a packet of a family meets at a netfilter hook.
type HookRules struct {
	Hook    string `json:"hook"`    // PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING
	Family  string `json:"family"`  // ip, ip6, inet (both), bridge
	Backend string `json:"backend"` // nft (which iptables-nft writes too), legacy
	Chains  int    `json:"chains"`  // base chains
	Rules   int    `json:"rules"`   // in base chains; a policy is none
	Reached int    `json:"reached"` // in base chains and in all chains that they lead to, each once
}

// The netfilter hooks by their kernel numbers (enum nf_inet_hooks, and the same for bridges).
var filterHooks = [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// Count sums a netfilter hook's base chains and reachable rules over families and backends.
func (f *Filter) Count(hook string) (chains, rules int) {
	for _, h := range f.Hooks {
		if h.Hook == hook {
			chains += h.Chains
			rules += h.Reached
		}
	}
	return chains, rules
}

// ruleset is a namespace's rules as read from one backend, a graph of chains.
type ruleset struct {
	backend string
	chains  map[chainID]*chain
}

// chainID names a chain: two tables may have chains of one name.
type chainID struct{ family, table, name string }

type chain struct {
	base      bool
	hook      uint32 // of a base chain
	rules     int
	jumps     []string // chains of the same table that its rules lead to
	redirects []uint16
}

func newRuleset(backend string) *ruleset {
	return &ruleset{backend: backend, chains: map[chainID]*chain{}}
}

func (r *ruleset) chain(id chainID) *chain {
	c := r.chains[id]
	if c == nil {
		c = &chain{}
		r.chains[id] = c
	}
	return c
}

// summarise counts rules by hook, of all rule sets of one namespace. Redirects count only where packets can reach them.
func summarise(sets ...*ruleset) Filter {
	var f Filter
	byHook := map[HookRules]*HookRules{}
	var inbound []uint16
	for _, set := range sets {
		for id, c := range set.chains {
			if !c.base || c.hook >= uint32(len(filterHooks)) {
				continue
			}
			key := HookRules{Hook: filterHooks[c.hook], Family: id.family, Backend: set.backend}
			h := byHook[key]
			if h == nil {
				h = &HookRules{Hook: key.Hook, Family: key.Family, Backend: key.Backend}
				byHook[key] = h
			}
			h.Chains++
			h.Rules += c.rules
			reached, ports := set.reach(id)
			h.Reached += reached
			f.Redirects = append(f.Redirects, ports...)
			switch key.Hook {
			case "OUTPUT":
				f.Outbound = append(f.Outbound, ports...)
			case "PREROUTING":
				inbound = append(inbound, ports...)
			}
		}
	}
	for _, h := range byHook {
		f.Hooks = append(f.Hooks, *h)
	}
	slices.SortFunc(f.Hooks, func(a, b HookRules) int {
		return cmp.Or(hookOrder(a.Hook)-hookOrder(b.Hook), cmp.Compare(a.Family, b.Family), cmp.Compare(a.Backend, b.Backend))
	})
	slices.Sort(f.Redirects)
	f.Redirects = slices.Compact(f.Redirects)
	slices.Sort(f.Outbound)
	f.Outbound = slices.DeleteFunc(slices.Compact(f.Outbound), func(port uint16) bool { return slices.Contains(inbound, port) })
	if len(f.Outbound) == 0 {
		f.Outbound = nil
	}
	return f
}

func hookOrder(name string) int { return slices.Index(filterHooks[:], name) }

// reach walks from a base chain along jumps: how many rules there are, and the ports they redirect to.
func (r *ruleset) reach(from chainID) (rules int, ports []uint16) {
	seen := map[chainID]bool{from: true}
	for todo := []chainID{from}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		c := r.chains[id]
		if c == nil {
			continue
		}
		rules += c.rules
		ports = append(ports, c.redirects...)
		for _, name := range c.jumps {
			next := chainID{id.family, id.table, name}
			if !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return rules, ports
}
