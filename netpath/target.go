package netpath

import "encoding/binary"

// Where the port is in the targets of iptables that hand a packet to a local socket.
const (
	redirectPort4 = 16 // nf_nat_ipv4_multi_range_compat: rangesize, flags, min_ip, max_ip, then min port
	redirectPort6 = 36 // nf_nat_range: flags, min_addr, max_addr, then min port
	tproxyPort0   = 12 // xt_tproxy_target_info: mark_mask, mark_value, laddr, then lport
	tproxyPort1   = 24 // xt_tproxy_target_info_v1: the same with an IPv6 laddr
)

// addTarget notes the port of a REDIRECT or TPROXY target; info is the target's own structure. In the inet family
// iptables' targets do not occur.
func (c *chain) addTarget(family, name string, revision uint32, info []byte) {
	var at int
	switch {
	case name == "REDIRECT" && family == "ip6":
		at = redirectPort6
	case name == "REDIRECT":
		at = redirectPort4
	case name == "TPROXY" && revision == 0:
		at = tproxyPort0
	case name == "TPROXY":
		at = tproxyPort1
	default:
		return
	}
	if len(info) < at+2 {
		return
	}
	if port := binary.BigEndian.Uint16(info[at:]); port != 0 {
		c.redirects = append(c.redirects, port)
	}
}
