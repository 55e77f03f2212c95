package join

import (
	"hash/maphash"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Exchange is a request and its response on one leg, and what links it to others. It is valid until the function that
// was given its Tree returns. What relating looks at comes first. target and host are hashes: proxies keep what they stand for.
type Exchange struct {
	Req     *Message
	Resp    *Message // nil: none seen
	parent  *Exchange
	group   *group
	Parent  int // index in the tree, -1: a root
	at      int // index in the tree
	id      head.ID
	TraceID [16]byte // of the request's trace context
	target  uint64   // of method and target
	host    uint64
	Error   string

	hasID        bool
	byResp       bool // the id came with the response only
	unsure       bool // behind a gap on a pipelined connection: its response cannot be told
	done         bool
	asked        bool // it is the parent of another one
	method       method
	Client       uint8 // which end of the leg sent the request
	candidates   int32
	claimed      bool        // its parent was found beyond what heads say
	vague        bool        // nobody knows what it asks for
	handed       bool        // it was handed on, or a connection was opened for it, as far as models know
	byOpening    bool        // inOrder is what its connection was opened for
	waits        bool        // it is among what waits in a pool for a connection
	unknown      bool        // or among what was handed on by one that is not known
	counted      bool        // it is among what its server, an app, has open
	asks         bool        // it is among what its client, an app in Go, asks
	open         bool        // it is among what its server, one in Go, has not answered
	noted        uint8       // a bit for each kind of event that its workers were told of
	named        uint8       // bits: its server, its client was named when it came
	sought       int32       // those that were weighed where its head says nothing
	considered   bool        // may has what there is
	may          []ref       // what may have caused it, see consider
	rivals       int32       // what its client was asked and had not answered when it was first seen; of a proxy: for the same
	Connect      *bpf.Flight // the SYN of its connection, where that was opened for it; else nil
	since        uint64
	serial       uint64 // no other exchange has it
	Stream       Stream
	asServer     place     // among what its server was asked
	asClient     place     // among what its client asked
	lines        [2]uint64 // of request and response, see keptLines
	class        *class    // of its server's worker
	handsOn      ref       // and what it is handed on as
	lane         *Leg      // by which its server hands it on, says the pool
	pool         *pool     // of its client's worker
	inPool       guess     // its cause by that pool's connections
	inOrder      guess     // and by the order of reading, or of opening connections
	byWaiting    ref       // who had waited longest, where that is another one than what its connection was opened for
	byThread     ref       // and by the thread of its client, an app
	maker        *Exchange // and by its goroutine, see goroutine.go; nil: not known
	madeSure     float64
	heeded       [2]*heeded    // where what its proxies say of it is looked for, see heed
	contradicted bool          // more than one was said to have caused it
	Relay        journey.Relay // how Parent was found, if there is one
}

// method is what a request's method means for its response's length.
type method uint8

const (
	methodUnknown method = iota
	methodOther
	methodHead
	methodConnect
)

// methodNames are what head.Head.MessageLen takes.
var methodNames = [...][]byte{nil, []byte("GET"), []byte("HEAD"), []byte("CONNECT")}

func methodOfRequest(name []byte) method {
	switch string(name) {
	case "":
		return methodUnknown
	case "HEAD":
		return methodHead
	case "CONNECT":
		return methodConnect
	}
	return methodOther
}

// ServerPid is the process that read the request, 0 when it was not seen.
func (x *Exchange) ServerPid() uint32 {
	if p := x.Req.RecvPid; p != 0 || x.Resp == nil {
		return p
	}
	return x.Resp.SendPid
}

// ClientPid is the process that wrote the request, 0 when it was not seen.
func (x *Exchange) ClientPid() uint32 {
	if p := x.Req.SendPid; p != 0 || x.Resp == nil {
		return p
	}
	return x.Resp.RecvPid
}

// Tree is the exchanges of one request, a parent before its children.
type Tree struct {
	ID         head.ID // of the request id, else zero
	Exchanges  []*Exchange
	Unjoined   string // why the root has no parent although its process serves requests; empty otherwise
	Candidates int    // for the root's parent, where there are several or the only one proves nothing
	joiner     *Joiner
}

// Head is what a message of the tree begins with: parsed again, valid until the next call.
func (t *Tree) Head(m *Message) *head.Head { return t.joiner.head(m) }

func (j *Joiner) newExchange(m *Message) *Exchange {
	var x *Exchange
	if n := len(j.freeExchanges); n > 0 {
		x, j.freeExchanges = j.freeExchanges[n-1], j.freeExchanges[:n-1]
	} else {
		x = &Exchange{}
	}
	h := j.head(m)
	j.serial++
	x.serial, x.Client, x.Req, x.Parent, x.since, x.method = j.serial, m.dir, m, -1, j.now, methodOfRequest(h.Method)
	j.describe(x, h)
	m.exchange = x
	return x
}

// describe notes what the request's head says that relating needs.
func (j *Joiner) describe(x *Exchange, h *head.Head) {
	x.lines[0] = 0
	x.target = maphash.Bytes(j.seed, h.Method) ^ maphash.Bytes(j.seed, h.Target)*31
	x.host, x.TraceID = maphash.Bytes(j.seed, h.Host), h.Trace.TraceID
}

func (j *Joiner) freeExchange(x *Exchange) {
	j.unshelve(x)
	unheed(x)
	if x.asks || x.open {
		j.forgetWorkers(x)
	}
	for _, m := range [...]*Message{x.Req, x.Resp} {
		if m == nil {
			continue
		}
		if m.result == head.NeedMore {
			j.lost.cutHead.Add(1)
		}
		j.freeMessage(m)
	}
	*x = Exchange{may: x.may[:0]}
	j.freeExchanges = append(j.freeExchanges, x)
}
