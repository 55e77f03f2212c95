package proxylog

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	service "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// What clients of the access log service may have at once. Envoy has a connection and a stream for each worker, and sends 16 KB at a time; the
// first message has all that istiod told it about itself.
const (
	mostMessage = 128 << 10 // bytes
	mostStreams = 2         // of a connection
	window      = 64 << 10  // bytes that a connection may send before they are read
	mostHeaders = 8 << 10
	slowDown    = 100 * time.Millisecond // that who says too much is not listened to
)

// serveEnvoy begins to listen for the access log service.
func (s *Server) serveEnvoy(address string) error {
	l, err := listenStream(address)
	if err != nil {
		return err
	}
	g := grpc.NewServer(
		grpc.Creds(whoCalls{s}), grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(mostMessage), grpc.MaxConcurrentStreams(mostStreams),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window), grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
		grpc.MaxHeaderListSize(mostHeaders), grpc.ConnectionTimeout(5*time.Second), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: service.AccessLogService_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: service.AccessLogService_ServiceDesc.Streams[0].StreamName, ClientStreams: true, Handler: s.stream}},
	}, s)
	s.serving.Go(func() {
		if err := g.Serve(newGuard(l, s.lost.connections)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.opts.Log.Error("no longer listening for Envoy's access log", "address", address, "error", err)
		}
	})
	s.closers = append(s.closers, func() error { g.Stop(); return nil })
	return nil
}

// stream takes what one worker of an Envoy says, until it or the server ends.
func (s *Server) stream(_ any, stream grpc.ServerStream) error {
	by := journey.Speaker{}
	if p, ok := peer.FromContext(stream.Context()); ok {
		by = speakerOf(p)
	}
	for {
		var b []byte
		err := stream.RecvMsg(&b)
		switch {
		case errors.Is(err, io.EOF):
			return stream.SendMsg(&[]byte{})
		case status.Code(err) == codes.ResourceExhausted:
			s.lost.tooLong.Add(1)
			return err
		case err != nil:
			return err
		}
		if s.message(b, by, time.Now()) {
			wait(stream.Context(), slowDown)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// raw is a codec that leaves messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, errors.New("not bytes")
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return errors.New("not bytes")
	}
	*b = data.Materialize()
	return nil
}

// whoCalls is no security but the kernel's word on who is at the other end.
type whoCalls struct{ s *Server }

type caller struct{ journey.Speaker }

func (caller) AuthType() string { return "kernel" }

func (w whoCalls) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, caller{w.s.speakerOn(c)}, nil
}

func (whoCalls) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("only serves")
}

func (whoCalls) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "kernel"}
}
func (w whoCalls) Clone() credentials.TransportCredentials { return w }
func (whoCalls) OverrideServerName(string) error           { return nil }

func speakerOf(p *peer.Peer) journey.Speaker {
	if c, ok := p.AuthInfo.(caller); ok {
		return c.Speaker
	}
	return journey.Speaker{}
}
