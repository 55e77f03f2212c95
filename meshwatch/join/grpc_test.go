package join

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/meshwatch/meshwatch/bpf"
)

// tapped is the client's end of a connection, of which every write and read becomes a flight.
type tapped struct {
	net.Conn
	mu sync.Mutex
	c  *conn
}

func (t *tapped) tell(side int, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, _ := t.c.flight(side, string(b))
	b = b[:min(len(b), bpf.FramesBytes)]
	f.HeadLen = uint16(len(b))
	t.c.w.j.Flight(&f, b)
}

func (t *tapped) Write(b []byte) (int, error) {
	t.tell(0, b)
	return t.Conn.Write(b)
}

func (t *tapped) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if n > 0 {
		t.tell(1, b[:n])
	}
	return n, err
}

// calls answers as many messages as it is asked for. A call of which both sides stream fails at its end.
type calls struct {
	grpc_testing.UnimplementedTestServiceServer
}

func (calls) UnaryCall(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	return &grpc_testing.SimpleResponse{}, nil
}

func (calls) StreamingInputCall(s grpc_testing.TestService_StreamingInputCallServer) error {
	for {
		if _, err := s.Recv(); err == io.EOF {
			return s.SendAndClose(&grpc_testing.StreamingInputCallResponse{})
		} else if err != nil {
			return err
		}
	}
}

func (calls) StreamingOutputCall(r *grpc_testing.StreamingOutputCallRequest, s grpc_testing.TestService_StreamingOutputCallServer) error {
	for range r.GetResponseParameters() {
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
	return nil
}

func (calls) FullDuplexCall(s grpc_testing.TestService_FullDuplexCallServer) error {
	for {
		r, err := s.Recv()
		if err == io.EOF {
			return status.Error(codes.Aborted, "asked for")
		}
		if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// What a real client and a real server say to each other, in all four kinds of calls: statuses and counts are theirs.
func TestRealGRPC(t *testing.T) {
	w := newWorld(t)
	var got []string
	w.j.emit = func(tree *Tree) {
		for _, x := range tree.Exchanges {
			s := x.Stream
			got = append(got, fmt.Sprintf("%s %d: %d, %d, exact %v %s", tree.Head(x.Req).Target, s.Status, s.Sent, s.Received, s.Exact, x.Error))
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, calls{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	tap := &tapped{c: w.conn(1, 2)}
	cc, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(_ context.Context, address string) (_ net.Conn, err error) {
			tap.Conn, err = net.Dial("tcp", address)
			return tap, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	want := converse(t, grpc_testing.NewTestServiceClient(cc))
	if err := cc.Close(); err != nil {
		t.Error(err)
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	w.settle()
	slices.Sort(got)
	slices.Sort(want)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// converse makes calls, and says what is to be seen of them.
func converse(t *testing.T, client grpc_testing.TestServiceClient) (want []string) {
	t.Helper()
	ctx := t.Context()
	const service = "/grpc.testing.TestService/"
	saw := func(method string, err error, sent, received int) {
		want = append(want, fmt.Sprintf("%s%s %d: %d, %d, exact true ", service, method, status.Code(err), sent, received))
	}
	for i := 1; i < 9; i++ { // what is written at once is within what is captured of a flight
		_, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{})
		saw("UnaryCall", err, 1, 1)

		in, err := client.StreamingInputCall(ctx)
		for k := 0; k < i && err == nil; k++ {
			err = in.Send(&grpc_testing.StreamingInputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 100*k)}})
		}
		if err == nil {
			_, err = in.CloseAndRecv()
		}
		saw("StreamingInputCall", err, i, 1)

		out, err := client.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{ResponseParameters: make([]*grpc_testing.ResponseParameters, i+1)})
		n := 0
		for ; err == nil; n++ {
			_, err = out.Recv()
		}
		if err != io.EOF || n-1 != i+1 {
			t.Fatalf("%d messages, %v", n-1, err)
		}
		saw("StreamingOutputCall", nil, 1, n-1)

		both, err := client.FullDuplexCall(ctx)
		for k := 0; k < i && err == nil; k++ {
			if err = both.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 3000)}}); err == nil {
				_, err = both.Recv()
			}
		}
		if err == nil {
			err = both.CloseSend()
		}
		if err == nil {
			_, err = both.Recv()
		}
		if status.Code(err) != codes.Aborted {
			t.Fatal(err)
		}
		saw("FullDuplexCall", err, i, i)
	}
	return want
}
