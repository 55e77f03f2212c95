package rpc

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshwatch/meshwatch/test/lab/record"
)

// start serves an app until the test ends, and returns a function that connects to it, and the file of its records.
func start(t *testing.T, upstream Streams) (dial func() (*grpc.ClientConn, error), records string) {
	t.Helper()
	w, records := writer(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := (&App{Upstream: upstream, Records: w}).Server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return func() (*grpc.ClientConn, error) {
		return grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	}, records
}

func writer(t *testing.T) (*record.Writer, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "records")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := record.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return w, name
}

func connect(t *testing.T, dial func() (*grpc.ClientConn, error)) *grpc.ClientConn {
	t.Helper()
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ended waits until a connection is closed.
func ended(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for s := conn.GetState(); s != connectivity.Shutdown; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			t.Fatalf("a connection is not closed: %s", s)
		}
	}
}

// byTruth reads a file's records. Two of one call are an error.
func byTruth(t *testing.T, name string) map[string]record.Record {
	t.Helper()
	all := map[string]record.Record{}
	for r, err := range record.Read(name) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[r.TruthID]; twice {
			t.Errorf("%s: call %s is recorded twice", name, r.TruthID)
		}
		all[r.TruthID] = r
	}
	return all
}

// TestCall makes one call of each kind through an app that calls another: all three say the same.
func TestCall(t *testing.T) {
	backend, atBackend := start(t, nil)
	frontend, atFrontend := start(t, connect(t, backend))
	conn := connect(t, frontend)
	const n = 5
	for method, want := range map[string]record.Record{
		Echo: {Sent: 1, Received: 1}, Fail: {Sent: 1, Status: int(codes.NotFound)},
		Collect: {Sent: n, Received: 1}, Expand: {Sent: 1, Received: n}, Talk: {Sent: n, Received: n},
	} {
		want.Target, want.TruthID = method, "id "+method
		got := Call(t.Context(), conn, method, want.TruthID, n)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("client (-want +got):\n%s", diff)
		}
		want.Sent, want.Received = want.Received, want.Sent // as servers see it
		for app, file := range map[string]string{"frontend": atFrontend, "backend": atBackend} {
			if diff := cmp.Diff(want, byTruth(t, file)[want.TruthID]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", app, diff)
			}
		}
	}
	if r := Call(t.Context(), conn, "/lab.Count/None", "none", 1); r.Status != int(codes.Unimplemented) || r.Error == "" {
		t.Errorf("a method that is not there: %+v", r)
	}
}

// TestSend: a load's records are those of the app, call by call; it has the connections that it is to have, and ends them.
func TestSend(t *testing.T) {
	dial, atApp := start(t, nil)
	for _, perConnection := range []int{0, 1, 3} {
		w, file := writer(t)
		const connections = 2
		var mu sync.Mutex
		var dialed []*grpc.ClientConn
		r, err := Send(t.Context(), Load{
			Dial: func() (*grpc.ClientConn, error) {
				conn, err := dial()
				mu.Lock()
				defer mu.Unlock()
				dialed = append(dialed, conn)
				return conn, err
			},
			Connections: connections, Calls: 8, Methods: []string{Echo, Fail, Collect, Expand, Talk}, Duration: 200 * time.Millisecond,
			Run: fmt.Sprint("run", perConnection), Records: w, PerConnection: perConnection,
		})
		if err != nil || r.Calls < 8 || r.Broken > 0 || len(r.Latencies) != r.Calls || r.Summary().P50 == 0 {
			t.Fatalf("%+v, %v", r.Summary(), err)
		}
		full := 0 // connections that had all the calls they can have
		if perConnection > 0 {
			full = r.Calls / perConnection
		}
		if n := len(dialed); n < full || n > full+connections {
			t.Errorf("%d calls on a connection: %d connections for %d calls", perConnection, n, r.Calls)
		}
		for _, conn := range dialed {
			ended(t, conn)
		}
		client, app := byTruth(t, file), byTruth(t, atApp)
		if len(client) != r.Calls {
			t.Errorf("%d records of %d calls", len(client), r.Calls)
		}
		for id, c := range client {
			a := app[id]
			if a.Target != c.Target || a.Received != c.Sent || a.Sent != c.Received || a.Status != c.Status || a.Error != "" {
				t.Errorf("client %+v, app %+v", c, a)
			}
		}
	}
}
