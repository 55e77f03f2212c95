// Package rpc is the lab's gRPC service, and how it is called. Its messages are numbers, google.protobuf.UInt32Value:
//
//	/lab.Count/Echo     unary: the number that was sent
//	/lab.Count/Fail     unary: no message, status NOT_FOUND
//	/lab.Count/Collect  client streaming: how many were sent
//	/lab.Count/Expand   server streaming: as many as the number says
//	/lab.Count/Talk     bidirectional streaming: each number, as it comes
package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshwatch/meshwatch/test/lab/record"
)

// The methods.
const (
	Echo    = "/lab.Count/Echo"
	Fail    = "/lab.Count/Fail"
	Collect = "/lab.Count/Collect"
	Expand  = "/lab.Count/Expand"
	Talk    = "/lab.Count/Talk"
)

// Streaming says whether a method has more than one message in any direction.
func Streaming(method string) bool { return slices.Contains([]string{Collect, Expand, Talk}, method) }

// The metadata by which calls are told apart.
const (
	TruthID   = "x-truth-id"
	RequestID = "x-request-id"
)

// anyStream is every method to the library: on the wire a call is a stream, whatever its kind.
func anyStream() *grpc.StreamDesc {
	return &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
}

// Conn is one connection at a time. Each has a number of streams, also at once, and ends with the context of its last.
type Conn struct {
	dial          func() (*grpc.ClientConn, error)
	perConnection int // streams, 0: any number

	mu  sync.Mutex
	now *used // nil: the next stream connects
}

// used is a connection. The mutex of its Conn guards it.
type used struct {
	*grpc.ClientConn
	begun, ended int // streams
}

// NewConn connects when it must. perConnection is the number of streams of a connection, 0: any.
func NewConn(dial func() (*grpc.ClientConn, error), perConnection int) *Conn {
	return &Conn{dial: dial, perConnection: perConnection}
}

// NewStream begins a stream, which ends with its context.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	u, err := c.use()
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { c.end(u) })
	return u.NewStream(ctx, desc, method, opts...)
}

func (c *Conn) use() (*used, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		conn, err := c.dial()
		if err != nil {
			return nil, err
		}
		c.now = &used{ClientConn: conn}
	}
	u := c.now
	if u.begun++; u.begun == c.perConnection {
		c.now = nil
	}
	return u, nil
}

func (c *Conn) end(u *used) {
	c.mu.Lock()
	u.ended++
	last := u.ended == c.perConnection
	c.mu.Unlock()
	if last {
		_ = u.Close() // no stream is left that an error could be of
	}
}

// Close closes the connection that is not used up. Its streams end.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		return nil
	}
	return c.now.Close()
}

// Streams begins streams: a grpc.ClientConn, or a Conn.
type Streams interface {
	NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error)
}

// Call makes one call and reads its end. A streaming one has n messages in each direction that streams. What the client saw is in the
// record; its Error is empty also where the server answered with a status.
func Call(ctx context.Context, conn Streams, method, truth string, n int) record.Record {
	r := record.Record{Target: method, TruthID: truth}
	if err := call(metadata.AppendToOutgoingContext(ctx, TruthID, truth), conn, n, &r); err != nil {
		s, said := status.FromError(err)
		r.Status = int(s.Code())
		if !said || method != Fail || s.Code() != codes.NotFound {
			r.Error = err.Error()
		}
	}
	return r
}

func call(ctx context.Context, conn Streams, n int, r *record.Record) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := conn.NewStream(ctx, anyStream(), r.Target)
	if err != nil {
		return err
	}
	up, value := 1, n
	if r.Target == Collect || r.Target == Talk {
		up = n
	}
	for range up {
		if err := s.SendMsg(wrapperspb.UInt32(uint32(value))); err != nil { //nolint:gosec // a small number
			break // its reason is what RecvMsg says
		}
		r.Sent++
		if r.Target != Talk {
			continue
		}
		if err := receive(s, r); err != nil {
			return err
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		if err := receive(s, r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if head, err := s.Header(); err == nil {
		r.RequestID = first(head, RequestID)
	}
	return expected(r, n)
}

func receive(s grpc.ClientStream, r *record.Record) error {
	if err := s.RecvMsg(new(wrapperspb.UInt32Value)); err != nil {
		return err
	}
	r.Received++
	return nil
}

// expected says whether the answers are as many as asked for.
func expected(r *record.Record, n int) error {
	want := 1
	if r.Target == Expand || r.Target == Talk {
		want = n
	}
	if r.Received != want {
		return fmt.Errorf("%s: %d answers, want %d", r.Target, r.Received, want)
	}
	return nil
}

func first(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}
