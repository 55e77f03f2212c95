package kube

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/meshwatch/meshwatch/topology"
)

// server is an API server as far as lists and watches go: Istio's clients have no fakes. As a real one it tells of Kubernetes' own kinds in
// protobuf, to who asks for that, else in JSON.
type server struct {
	http    *http.Server
	address string
	mu      sync.Mutex
	rv      int
	objects map[string]map[string]json.RawMessage // by path and namespace/name
	log     map[string][]event                    // by path
	first   int                                   // resource version from which on the log is there
	answers map[string]int                        // status codes by path, other than 200
	queries map[string]string                     // the latest, by path
	changed chan struct{}                         // closed at the next change
}

type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
	rv     int
}

func newServer(tb testing.TB) *server {
	s := &server{
		objects: map[string]map[string]json.RawMessage{}, log: map[string][]event{}, answers: map[string]int{}, queries: map[string]string{},
		changed: make(chan struct{}),
	}
	s.serve()
	tb.Cleanup(func() { s.away(true) })
	return s
}

// object is what Kubernetes' types have.
type object interface {
	metav1.Object
}

// The paths of what tests set.
const (
	podsPath     = "/api/v1/pods"
	nodesPath    = "/api/v1/nodes"
	servicesPath = "/api/v1/services"
	slicesPath   = "/apis/discovery.k8s.io/v1/endpointslices"
	istioPath    = "/apis/networking.istio.io/v1/"
	gatewayPath  = "/apis/gateway.networking.k8s.io/v1/"
)

var kindsByResource = map[string]string{
	"pods": "Pod", "nodes": "Node", "services": "Service", "endpointslices": "EndpointSlice", "virtualservices": "VirtualService", "destinationrules": "DestinationRule",
	"gateways": "Gateway", "serviceentries": "ServiceEntry", "workloadentries": "WorkloadEntry", "sidecars": "Sidecar", "peerauthentications": "PeerAuthentication",
	"telemetries": "Telemetry", "httproutes": "HTTPRoute", "grpcroutes": "GRPCRoute",
}

// typeOf is the API version and kind of what is at a path.
func typeOf(path string) (version, kind string) {
	version, resource := strings.TrimPrefix(strings.TrimPrefix(filepath.Dir(path), "/apis/"), "/api/"), filepath.Base(path)
	return version, kindsByResource[resource]
}

func (s *server) set(path string, o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rv++
	o.SetResourceVersion(strconv.Itoa(s.rv))
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	version, kind := typeOf(path)
	b = fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,%s`, version, kind, b[1:]) // of equal keys the last counts, and the first where the last is left out
	change := "MODIFIED"
	if s.objects[path] == nil {
		s.objects[path] = map[string]json.RawMessage{}
	}
	key := o.GetNamespace() + "/" + o.GetName()
	if s.objects[path][key] == nil {
		change = "ADDED"
	}
	s.objects[path][key] = b
	s.say(path, event{change, b, s.rv})
}

func (s *server) remove(path, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rv++
	gone := s.objects[path][key]
	delete(s.objects[path], key)
	s.say(path, event{"DELETED", gone, s.rv})
}

func (s *server) say(path string, e event) {
	s.log[path] = append(s.log[path], e)
	s.wake()
}

func (s *server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// answer makes requests of a path fail with a status; 0: no longer.
func (s *server) answer(path string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = status
	s.wake()
}

func (s *server) serve() {
	l, err := net.Listen("tcp", cmp.Or(s.address, "127.0.0.1:0"))
	if err != nil {
		panic(err)
	}
	s.address, s.http = l.Addr().String(), &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go s.http.Serve(l) //nolint:errcheck // until it is away
}

// away breaks connections off and takes no others until it is back. What happened then is forgotten: a list must tell.
func (s *server) away(down bool) {
	if down {
		_ = s.http.Close() //nolint:errcheck // it goes
		return
	}
	s.mu.Lock()
	s.first = s.rv + 1
	s.mu.Unlock()
	s.serve()
}

func (s *server) status(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{ //nolint:errcheck // the client sees
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: reason, Code: int32(code), Message: string(reason)}) //nolint:gosec // small
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, path := r.URL.Query(), r.URL.Path
	s.mu.Lock()
	answer := s.answers[path]
	s.queries[path] = r.URL.RawQuery
	s.mu.Unlock()
	switch {
	case answer == http.StatusForbidden:
		s.status(w, answer, metav1.StatusReasonForbidden)
	case answer == http.StatusUnauthorized:
		s.status(w, answer, metav1.StatusReasonUnauthorized)
	case answer != 0:
		s.status(w, answer, metav1.StatusReasonNotFound)
	case q.Get("watch") != "":
		s.watch(w, r, path)
	default:
		s.mu.Lock()
		version, kind := typeOf(path)
		list := map[string]any{"kind": kind + "List", "apiVersion": version, "metadata": map[string]string{"resourceVersion": strconv.Itoa(s.rv)}, "items": values(s.objects[path])}
		s.mu.Unlock()
		if inProtobuf(r) {
			b, err := json.Marshal(list)
			if err != nil {
				panic(err)
			}
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			_, _ = w.Write(protobufOf(b)) //nolint:errcheck // as above
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list) //nolint:errcheck // as above
	}
}

// inProtobuf says whether a request is to be answered in it.
func inProtobuf(r *http.Request) bool {
	version, _ := typeOf(r.URL.Path)
	return strings.Contains(r.Header.Get("Accept"), runtime.ContentTypeProtobuf) && (version == "v1" || version == "discovery.k8s.io/v1")
}

func protobufSerializer() runtime.SerializerInfo {
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		panic("Kubernetes' types have no protobuf")
	}
	return info
}

// protobufOf is an object, or a list, that is there in JSON.
func protobufOf(text []byte) []byte {
	o, kind, err := scheme.Codecs.UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		panic(err)
	}
	b, err := runtime.Encode(scheme.Codecs.EncoderForVersion(protobufSerializer().Serializer, kind.GroupVersion()), o)
	if err != nil {
		panic(err)
	}
	return b
}

// tells returns what writes the events of a watch.
func tells(w http.ResponseWriter, r *http.Request) (contentType string, tell func(event) error) {
	if !inProtobuf(r) {
		enc := json.NewEncoder(w)
		return "application/json", func(e event) error { return enc.Encode(e) }
	}
	info := protobufSerializer()
	frames := info.StreamSerializer.Framer.NewFrameWriter(w)
	return runtime.ContentTypeProtobuf + ";stream=watch", func(e event) error {
		return info.StreamSerializer.Serializer.Encode(&metav1.WatchEvent{Type: e.Type, Object: runtime.RawExtension{Raw: protobufOf(e.Object)}}, frames)
	}
}

func values(m map[string]json.RawMessage) []json.RawMessage {
	out := []json.RawMessage{}
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func (s *server) watch(w http.ResponseWriter, r *http.Request, path string) {
	if r.URL.Query().Get("sendInitialEvents") != "" {
		s.status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest) // as an older one: a list is asked for instead
		return
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion")) //nolint:errcheck // then all
	contentType, tell := tells(w, r)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	flush := w.(http.Flusher).Flush
	flush()
	for {
		s.mu.Lock()
		changed, answer := s.changed, s.answers[path]
		expired := from+1 < s.first
		var next []event
		for _, e := range s.log[path] {
			if e.rv > from {
				next = append(next, e)
			}
		}
		from = max(from, s.rv)
		s.mu.Unlock()
		switch {
		case answer != 0:
			return
		case expired:
			gone := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":%d,"reason":%q}`, http.StatusGone, metav1.StatusReasonExpired)
			_ = tell(event{Type: "ERROR", Object: gone}) //nolint:errcheck // as above
			return
		}
		for _, e := range next {
			_ = tell(e) //nolint:errcheck // as above
		}
		flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// clients are for the server.
func (s *server) clients(tb testing.TB) Clients {
	tb.Helper()
	c, err := ConnectTo(&rest.Config{Host: "http://" + s.address})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// follower is a Client that runs until the test ends.
type follower struct {
	*Client
	tb     testing.TB
	now    *atomic.Uint64 // of its clock, ns
	store  atomic.Pointer[topology.Store]
	mu     sync.Mutex
	losses map[string]uint64
	cancel func()
}

func (f *follower) lost(reason string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.losses[reason]
}

const second = uint64(time.Second)

// began is what the clock of followers says at their start.
const began = 100 * second

func follow(tb testing.TB, s *server) *follower {
	tb.Helper()
	return followWith(tb, s.clients(tb), topology.NewBuilder("", 70*second))
}

func followWith(tb testing.TB, clients Clients, b *topology.Builder) *follower {
	tb.Helper()
	f := &follower{tb: tb, now: &atomic.Uint64{}, losses: map[string]uint64{}}
	f.now.Store(began)
	f.Client = New(Settings{ClusterID: "Kubernetes"}, clients, Options{
		Node: "n1", Builder: b, Clock: f.now.Load, Changed: f.store.Store, Log: slog.New(slog.DiscardHandler),
		Lost: func(reason string, n uint64) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.losses[reason] += n
		},
	})
	ctx, cancel := contextOf(tb)
	done := make(chan struct{})
	f.cancel = func() { cancel(); <-done }
	go func() { defer close(done); f.Run(ctx) }()
	tb.Cleanup(f.cancel)
	return f
}

// await waits for a condition.
func (f *follower) await(what string, ok func() bool) {
	f.tb.Helper()
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			f.tb.Fatalf("no %s: %+v", what, f.Status())
		}
	}
}

// at is the workload that had an address at a time, by name; empty: nobody. It asks the Builder, as Stores come once a second.
func (f *follower) at(addr string, at uint64) string {
	w, ok := f.Builder.Store(f.now.Load()).Lookup(netip.MustParseAddrPort(fmt.Sprintf(bracket(addr), addr, 80)), at)
	if !ok {
		return ""
	}
	return w.Name
}

func bracket(addr string) string {
	if netip.MustParseAddr(addr).Is6() {
		return "[%s]:%d"
	}
	return "%s:%d"
}

func (f *follower) is(addr, want string) {
	f.tb.Helper()
	f.await(addr+" is "+want, func() bool { return f.at(addr, f.now.Load()) == want })
}
