package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshwatch/meshwatch/test/lab/record"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
)

// Call makes one gRPC call from the client by the gateway, on a connection of its own, with n messages in a direction that streams. It
// needs Options.GRPC. What the call came to is in the record.
func (l *Lab) Call(ctx context.Context, method, truth string, n int) (record.Record, error) {
	security := insecure.NewCredentials()
	if config := l.ClientTLS(); config != nil {
		security = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+l.gatewayAddress(), grpc.WithTransportCredentials(security),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return l.Dial(ctx, "client", address) }))
	if err != nil {
		return record.Record{}, fmt.Errorf("call %s: %w", method, err)
	}
	defer conn.Close()
	return rpc.Call(ctx, conn, method, truth, n), nil
}

// RPC calls as fast as it gets answers, from the client by the gateway, until the duration is over and every call has ended. Every call
// has a truth id, and with Options.Records a record among the client's. It needs Options.GRPC.
func (l *Lab) RPC(ctx context.Context, w Load) (LoadResult, error) {
	if !l.Options.GRPC {
		return LoadResult{}, errors.New("send load: Options.GRPC is off")
	}
	if err := w.check(); err != nil {
		return LoadResult{}, err
	}
	w = w.withDefaults()
	client, _ := l.Pod("client")
	records, err := l.makeRecords(client)
	if err != nil {
		return LoadResult{}, err
	}
	run := l.newRun()
	args := []string{
		"load", "-address", l.gatewayAddress(), "-connections", strconv.Itoa(w.Connections), "-calls", strconv.Itoa(or(w.Streams, w.Connections)),
		"-duration", w.Duration.String(), "-per-connection", strconv.Itoa(w.PerConnection), "-run", run, "-records", records,
	}
	if len(w.Methods) > 0 {
		args = append(args, "-methods", strings.Join(w.Methods, ","))
	}
	if l.Options.TLS {
		args = append(args, "-ca", l.CAFile())
	}
	out, err := l.load(ctx, l.path("rpcapp"), args)
	if err != nil {
		return LoadResult{}, err
	}
	var s rpc.Summary
	if err := json.Unmarshal(out, &s); err != nil {
		return LoadResult{}, fmt.Errorf("read the load's result: %w: %s", err, out)
	}
	return LoadResult{
		Requests: uint64(s.Calls), Broken: uint64(s.Broken), Duration: s.Duration, //nolint:gosec // counts
		P50: s.P50, P90: s.P90, P99: s.P99, P999: s.P999, Max: s.Max, Run: run,
	}, nil
}
