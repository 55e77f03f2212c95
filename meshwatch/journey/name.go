package journey

import "encoding/binary"

// Name is the best name known for this end: workload, service, network namespace or process, in this order; empty: none.
func (e *End) Name() string {
	switch {
	case e.Workload.Name != "":
		return e.Workload.Name
	case e.Workload.Service != "":
		return e.Workload.Service
	case e.NetName != "":
		return e.NetName
	}
	return e.Process
}

// Place names the hop and where it was: "veth backend eth0", "iptables FORWARD in node".
func (h *Hop) Place() string {
	switch {
	case h.Iface != "" && h.Net != "":
		return h.Name + " " + h.Net + " " + h.Iface
	case h.Iface != "":
		return h.Name + " " + h.Iface
	case h.Net != "":
		return h.Name + " in " + h.Net
	}
	return h.Name
}

// NAT tells whether the two ends see different addresses. False as long as one end was not seen.
func (l *Leg) NAT() bool {
	return l.Client.Known && l.Server.Known && (l.Client.Local != l.Server.Peer || l.Client.Peer != l.Server.Local)
}

// Trace is the trace id that goes out: TraceID, or where neither a trace context nor a request id gave one, the root's
// sequence identity.
func (j *Journey) Trace() [16]byte {
	if j.TraceID != ([16]byte{}) || len(j.Exchanges) == 0 {
		return j.TraceID
	}
	r := j.Exchanges[0]
	id := [16]byte{0: 'm', 1: 'w'} // never all zero, which is invalid
	binary.BigEndian.PutUint32(id[8:], r.Request.Seq)
	binary.BigEndian.PutUint32(id[12:], r.Request.Ack)
	return id
}
