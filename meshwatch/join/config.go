package join

import (
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// Config of a Joiner.
type Config struct {
	Parser *head.Parser
	SelfID uint32                // pid of the agent: its own connections are left out
	Proxy  func(pid uint32) bool // whether a process is a proxy: it answers one request by one request

	Linger  time.Duration // a request whose exchanges are all over waits this long for more of them
	Parents time.Duration // and this long if its first process was itself asked by someone
	Expire  time.Duration // a request without response is given up
	Hold    time.Duration // a flight waits this long for one before it
	Hear    time.Duration // how long an exchange of a proxy that says what it does waits for that, see Say; 0: nothing is heard

	// Unprobed is told of a process that reads what comes with TLS from a program without probes, while what it answers has some: its
	// reads would tell more. Once for each connection; may be nil.
	Unprobed func(pid uint32)

	// Began takes a flight that is the first seen on its connection, whoever sent it, and what the connection's bytes are; and before that
	// the SYN, which may be all there is. Nil: nobody asks.
	Began func(*bpf.Flight, Bytes, Opener)

	// Measure takes a message whose hops are to be measured, while its flight is still in the CPU's caches: each request, and each
	// response that has one, once and as soon as it was read. Nil, or never read: whoever gets the Tree measures it.
	Measure func(*Message)
}

// DefaultConfig has the times that suit a node whose agent gets CPU within some 10 ms and looks at the ring every 80 ms at least.
func DefaultConfig(p *head.Parser) Config {
	return Config{Parser: p, Linger: 100 * time.Millisecond, Parents: time.Second, Expire: 60 * time.Second, Hold: 250 * time.Millisecond}
}
