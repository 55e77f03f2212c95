package otlp

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// What has no convention in OpenTelemetry.
const (
	keyHopKind     = attribute.Key("meshwatch.hop.kind")
	keyHopClass    = attribute.Key("meshwatch.hop.class")
	keyDirection   = attribute.Key("meshwatch.direction")
	keyInterface   = attribute.Key("meshwatch.interface")
	keyNetns       = attribute.Key("meshwatch.netns")
	keyNATBefore   = attribute.Key("meshwatch.nat.before")
	keyNATAfter    = attribute.Key("meshwatch.nat.after")
	keySeq         = attribute.Key("meshwatch.tcp.seq")
	keyMethod      = attribute.Key("meshwatch.join.method")
	keyUnjoined    = attribute.Key("meshwatch.join.unjoined")
	keyConfidence  = attribute.Key("meshwatch.join.confidence")
	keyRetransmits = attribute.Key("meshwatch.retransmits")
	keyDropReason  = attribute.Key("meshwatch.drop_reason")
	keyRole        = attribute.Key("meshwatch.role")
	keyProcess     = attribute.Key("meshwatch.process")
	keyRequestID   = attribute.Key("meshwatch.request_id")
	keyVerdict     = attribute.Key("meshwatch.verdict")
	keyWhere       = attribute.Key("meshwatch.verdict.where")
	keyShare       = attribute.Key("meshwatch.verdict.share")
	keyWorkload    = attribute.Key("meshwatch.workload")
	keyDepth       = attribute.Key("meshwatch.depth")
	keyTLS         = attribute.Key("meshwatch.tls")
	keySent        = attribute.Key("meshwatch.grpc.request_messages")
	keyReceived    = attribute.Key("meshwatch.grpc.response_messages")
	keyRoute       = attribute.Key("envoy.route")
	keyVirtualHost = attribute.Key("envoy.virtual_host")
	keyCluster     = attribute.Key("envoy.cluster")
	keyTimeout     = attribute.Key("envoy.timeout_ms")
	keyRetries     = attribute.Key("envoy.retries")
	keyFaultDelay  = attribute.Key("envoy.fault.delay_ms")
	keyFaultAbort  = attribute.Key("envoy.fault.abort")
	keyAnsweredBy  = attribute.Key("envoy.answered_by")
	keySubset      = attribute.Key("istio.subset")
	keyService     = attribute.Key("istio.service")
	keyVirtual     = attribute.Key("istio.virtual_service")
	keyHTTPRoute   = attribute.Key("gateway_api.http_route")
	keyGRPCRoute   = attribute.Key("gateway_api.grpc_route")
	keyDestination = attribute.Key("istio.destination_rule")
	keyUngoverned  = attribute.Key("meshwatch.route.unknown")
	keyCrossZone   = attribute.Key("meshwatch.cross_zone")
	keyPeerPod     = attribute.Key("meshwatch.peer.pod")
	keyPeerNode    = attribute.Key("meshwatch.peer.node")
	keyPeerZone    = attribute.Key("meshwatch.peer.zone")
	keyRecorded    = attribute.Key("meshwatch.recorded_share")
)

// attributes collects the attributes of many spans in few allocations.
type attributes struct {
	free []attribute.KeyValue
	from int
}

const attributesAtOnce = 256 // about 16 KB

func (a *attributes) begin() {
	if cap(a.free)-len(a.free) < 32 { // more than a span usually has; append copes with the others
		a.free = make([]attribute.KeyValue, 0, attributesAtOnce)
	}
	a.from = len(a.free)
}

func (a *attributes) add(kv ...attribute.KeyValue) { a.free = append(a.free, kv...) }

func (a *attributes) word(k attribute.Key, v string) {
	if v != "" {
		a.free = append(a.free, k.String(v))
	}
}

func (a *attributes) number(k attribute.Key, v int) {
	if v != 0 {
		a.free = append(a.free, k.Int(v))
	}
}

func (a *attributes) end() []attribute.KeyValue { return a.free[a.from:len(a.free):len(a.free)] }

func (b *builder) legAttributes(i int, e *journey.Exchange) []attribute.KeyValue {
	b.begin()
	b.addresses(&e.Leg)
	b.peer(i, e)
	b.http(e)
	b.word(semconv.ErrorTypeKey, errorType(e))
	b.thread(&e.Leg.Client)
	b.add(keySeq.Int64(int64(e.Request.Seq)))
	retransmits, reason := e.Request.Retransmits, e.Request.DropReason
	if r := e.Response; r != nil {
		retransmits += r.Retransmits
		if r.DropReason != 0 {
			reason = r.DropReason
		}
	}
	if c := e.Connect; c != nil {
		retransmits += c.Retransmits
		if reason == 0 {
			reason = c.DropReason
		}
	}
	b.governance(e.Governance)
	b.add(keyDepth.String(depth(e)))
	b.number(keyRetransmits, int(retransmits))
	b.number(keyDropReason, int(reason))
	if r := b.joins[i]; r != nil {
		b.add(keyMethod.String(string(r.Method)), keyConfidence.Float64(r.Confidence))
	}
	if i == 0 {
		v := &b.j.Verdict
		b.word(keyRequestID, b.j.RequestID)
		b.word(keyUnjoined, b.j.Unjoined)
		if b.j.RecordedShare != 0 {
			b.add(keyRecorded.Float64(b.j.RecordedShare))
		}
		b.word(keyVerdict, string(v.Class))
		b.word(keyWhere, v.Where)
		if v.Class != "" {
			b.add(keyShare.Float64(v.Share))
		}
	}
	return b.end()
}

// depth is that of both flights of an exchange.
func depth(e *journey.Exchange) string {
	switch {
	case e.Response != nil && e.Request.Deep != e.Response.Deep:
		return "mixed"
	case e.Request.Deep:
		return "full"
	}
	return "edges"
}

// addresses are as the client's socket sees them; the server's own only where NAT makes a difference.
func (b *builder) addresses(l *journey.Leg) {
	local, peer := l.Client.Local, l.Client.Peer
	if !l.Client.Known && !local.IsValid() {
		local, peer = l.Server.Peer, l.Server.Local
	}
	b.add(semconv.NetworkTransportTCP)
	switch {
	case peer.Addr().Unmap().Is4():
		b.add(semconv.NetworkTypeIPv4)
	case peer.Addr().Is6():
		b.add(semconv.NetworkTypeIPv6)
	}
	if local.IsValid() {
		b.add(semconv.NetworkLocalAddress(local.Addr().String()), semconv.NetworkLocalPort(int(local.Port())))
	}
	if peer.IsValid() {
		b.add(semconv.NetworkPeerAddress(peer.Addr().String()), semconv.NetworkPeerPort(int(peer.Port())))
	}
	if l.NAT() {
		b.add(keyNATBefore.String(pair(local, peer)), keyNATAfter.String(pair(l.Server.Peer, l.Server.Local)))
	}
}

// peer is the callee, where the span is not its own.
func (b *builder) peer(i int, e *journey.Exchange) {
	if e.Leg.CrossZone {
		b.add(keyCrossZone.Bool(true))
	}
	w := &b.owners[i].callee
	if e.Leg.Server.Workload == (journey.Workload{}) || *w == b.owners[i].caller {
		return
	}
	b.add(semconv.ServicePeerName(w.Service))
	b.word(semconv.ServicePeerNamespaceKey, cmp.Or(w.ServiceNamespace, w.Namespace))
	if w.Kind == journey.KindPod {
		b.word(keyPeerPod, w.Name)
	}
	b.word(keyPeerNode, w.Node)
	b.word(keyPeerZone, w.Zone)
}

func pair(from, to netip.AddrPort) string { return from.String() + " -> " + to.String() }

func (b *builder) http(e *journey.Exchange) {
	if name, version, ok := strings.Cut(e.Protocol, "/"); ok {
		b.add(semconv.NetworkProtocolName(name), semconv.NetworkProtocolVersion(version))
	}
	if g := e.GRPC; g != nil {
		b.add(semconv.RPCSystemNameGRPC)
		b.word(semconv.RPCMethodKey, strings.TrimPrefix(e.Target, "/"))
		b.word(semconv.RPCResponseStatusCodeKey, g.Code())
		b.number(keySent, int(g.Sent))
		b.number(keyReceived, int(g.Received))
	}
	if e.TLS {
		b.add(keyTLS.Bool(true))
	}
	if e.Method != "" {
		m := knownMethod(e.Method)
		b.add(semconv.HTTPRequestMethodKey.String(m))
		if m != e.Method {
			b.add(semconv.HTTPRequestMethodOriginal(e.Method))
		}
	}
	b.word(semconv.URLPathKey, e.Target)
	b.number(semconv.HTTPResponseStatusCodeKey, e.Status)
	if e.Host != "" {
		host, port := hostPort(e.Host)
		b.add(semconv.ServerAddress(host))
		b.number(semconv.ServerPortKey, port)
	}
	names := make([]string, 0, len(e.Headers))
	for name := range e.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b.add(semconv.HTTPRequestHeader(strings.ToLower(name), e.Headers[name]))
	}
}

// hostPort splits a Host header; port 0: none was given.
func hostPort(host string) (name string, port int) {
	name, digits, err := net.SplitHostPort(host)
	if err != nil {
		return strings.Trim(host, "[]"), 0
	}
	port, err = strconv.Atoi(digits)
	if err != nil || port < 0 || port > 65535 {
		return name, 0
	}
	return name, port
}

func (b *builder) thread(e *journey.End) {
	b.word(keyNetns, e.NetName)
	b.word(keyProcess, e.Process)
	b.number(semconv.ProcessPIDKey, e.Pid)
	b.number(semconv.ThreadIDKey, e.Tid)
	b.word(semconv.ThreadNameKey, e.Thread)
}

func (b *builder) relayAttributes(e *journey.Exchange) []attribute.KeyValue {
	b.begin()
	b.word(keyRole, string(e.Leg.Server.Role))
	b.governance(e.Governance)
	b.thread(&e.Leg.Server)
	return b.end()
}

// governance is what the proxy's configuration says of a request: on the leg by which it came, and on the relay inside.
func (b *builder) governance(g *journey.Governance) {
	if g == nil {
		return
	}
	b.word(keyRoute, g.Route)
	b.word(keyVirtualHost, g.VirtualHost)
	b.word(keyCluster, g.Cluster)
	b.word(keySubset, g.Subset)
	b.word(keyService, g.Service)
	switch g.Defined.Kind {
	case "VirtualService":
		b.word(keyVirtual, g.Defined.String())
	case "HTTPRoute":
		b.word(keyHTTPRoute, g.Defined.String())
	case "GRPCRoute":
		b.word(keyGRPCRoute, g.Defined.String())
	}
	if g.Destination.Kind == "DestinationRule" {
		b.word(keyDestination, g.Destination.String())
	}
	b.word(keyUngoverned, g.Unknown)
	if p := g.Policy; p != nil {
		b.number(keyTimeout, int(p.Timeout.Milliseconds()))
		b.number(keyRetries, int(p.Retries))
		b.number(keyFaultDelay, int(p.Delay.Milliseconds()))
		b.number(keyFaultAbort, int(p.Abort))
		b.word(keyAnsweredBy, p.Local)
	}
}

func (b *builder) connectAttributes(e *journey.Exchange) []attribute.KeyValue {
	b.begin()
	b.word(keyNetns, e.Leg.Client.NetName)
	b.number(keyRetransmits, int(e.Connect.Retransmits))
	b.number(keyDropReason, int(e.Connect.DropReason))
	return b.end()
}

func (b *builder) hopAttributes(h *journey.Hop, d direction) []attribute.KeyValue {
	b.begin()
	b.add(keyDirection.String(d.String()))
	b.word(keyHopKind, h.Kind)
	b.word(keyHopClass, string(h.Class))
	b.word(keyNetns, h.Net)
	b.word(keyInterface, h.Iface)
	return b.end()
}

// legName is of low cardinality: the method, and who was asked.
func legName(e *journey.Exchange, callee journey.Workload) string {
	name := "TCP"
	switch {
	case e.GRPC != nil:
		name = "gRPC"
	case e.Method != "":
		if name = knownMethod(e.Method); name == otherMethod {
			name = "HTTP"
		}
	}
	if named(&e.Leg.Server) {
		name += " " + callee.Service
	}
	if r := e.Leg.Server.Role; r == journey.RoleSidecar || r == journey.RoleApp {
		name += " " + string(r)
	}
	return name
}

const otherMethod = "_OTHER" // OpenTelemetry's, as a method is whatever the client wrote

func knownMethod(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return m
	}
	return otherMethod
}

// errorType is empty when the exchange went well.
func errorType(e *journey.Exchange) string {
	switch {
	case e.Status >= 500:
		return strconv.Itoa(e.Status)
	case e.Error != "":
		return e.Error
	case e.Response == nil:
		return "no-response"
	}
	return ""
}
