package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshwatch/meshwatch/test/lab/record"
)

// App serves the service: by itself, or by calling the same method of another app and handing on every message.
type App struct {
	Upstream Streams // nil: it answers by itself
	Records  *record.Writer
}

// Server is a gRPC server with the app in it.
func (a *App) Server() *grpc.Server {
	return grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return a.handle(s) }))
}

func (a *App) handle(s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	md, _ := metadata.FromIncomingContext(s.Context())
	r := record.Record{Target: method, TruthID: first(md, TruthID), RequestID: first(md, RequestID)}
	var err error
	if a.Upstream != nil {
		err = a.relay(s, md, &r)
	} else {
		err = answer(s, &r)
	}
	r.Status = int(status.Code(err))
	if s.Context().Err() != nil {
		r.Error = s.Context().Err().Error()
	}
	if err := a.Records.Add(r); err != nil {
		slog.Error("a call is not recorded", "error", err)
	}
	return err
}

// answer does what the method's name says.
func answer(s grpc.ServerStream, r *record.Record) error {
	var last *wrapperspb.UInt32Value
	for {
		m := new(wrapperspb.UInt32Value)
		if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		r.Received++
		last = m
		if r.Target == Talk {
			if err := send(s, m, r); err != nil {
				return err
			}
		}
	}
	switch r.Target {
	case Talk:
		return nil
	case Collect:
		return send(s, wrapperspb.UInt32(uint32(r.Received)), r) //nolint:gosec // a small number
	case Expand:
		for range last.GetValue() {
			if err := send(s, last, r); err != nil {
				return err
			}
		}
		return nil
	case Echo:
		return send(s, last, r)
	case Fail:
		return status.Error(codes.NotFound, "as asked for")
	}
	return status.Errorf(codes.Unimplemented, "no method %s", r.Target)
}

func send(s grpc.ServerStream, m *wrapperspb.UInt32Value, r *record.Record) error {
	if err := s.SendMsg(m); err != nil {
		return err
	}
	r.Sent++
	return nil
}

// forwarded is the metadata that an app which takes part in tracing hands on.
func forwarded(md metadata.MD) metadata.MD {
	out := metadata.MD{}
	for _, key := range []string{RequestID, TruthID, "traceparent", "tracestate", "b3"} {
		if v := md.Get(key); len(v) > 0 {
			out[key] = v
		}
	}
	return out
}

// relay calls the upstream, and hands messages on in both directions until both have ended.
func (a *App) relay(s grpc.ServerStream, md metadata.MD, r *record.Record) error {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(s.Context(), forwarded(md)))
	defer cancel()
	up, err := a.Upstream.NewStream(ctx, anyStream(), r.Target)
	if err != nil {
		return err
	}
	var received atomic.Int64
	go func() { // ends with the call: then the server's stream has no more messages
		if err := handOn(s, up, &received); err != nil || up.CloseSend() != nil {
			cancel() // the client is gone, or the upstream, which says so below
		}
	}()
	var sent atomic.Int64
	err = handOn(up, s, &sent)
	r.Sent, r.Received = int(sent.Load()), int(received.Load()) // final: an upstream reads to the end before it ends
	return err
}

// handOn copies messages to their end, and counts them.
func handOn(from interface{ RecvMsg(any) error }, to interface{ SendMsg(any) error }, n *atomic.Int64) error {
	for {
		m := new(wrapperspb.UInt32Value)
		if err := from.RecvMsg(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n.Add(1)
		if err := to.SendMsg(m); err != nil {
			return err
		}
	}
}
