// Command app is the lab's application: an HTTP/1.1 server that does what a request's query asks of it, and calls other
// apps. One program plays frontend and backend; flags say which.
//
// Query parameters, all optional, in the order in which they take effect:
//
//	sleep=50ms    wait before anything else
//	burn=5ms      use the CPU that long, on one thread
//	call=a,b      call these upstreams; "call=" calls none; absent: those of --call
//	mode=seq|par  how several upstreams are called, default seq
//	NAME.key=v    becomes key=v in the query to upstream NAME; up.key=v goes to every upstream
//	forward=1     stream the request body to the upstream (one upstream only)
//	relay=1       answer with the body of the upstream (one upstream only)
//	echo=1        answer with the request body, while it arrives
//	body=N        answer with N bytes
//	events=N      answer with N server-sent events, one each millisecond
//	trailer=1     announce a trailer, and send it; the answer is chunked
//	status=503    answer with this status
//	session=1     hand credentials (Authorization, Cookie) and X-Shown on to upstreams, and answer with the cookie, as Set-Cookie
//	bare=1        hand no ids and no trace context on, as an app that takes no part in tracing
//	close=1       close the connection after the answer
//	reset=1       reset the connection instead of an answer; reset=mid: after half of the body
//
// A request body that is neither forwarded nor echoed is read to its end first. A request to upgrade to WebSocket is granted: then
// the app sends back whatever comes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/meshwatch/meshwatch/test/lab/record"
)

func main() {
	if err := run(); err != nil {
		slog.Error("app stopped", "error", err)
		os.Exit(1)
	}
}

func run() error {
	name := flag.String("name", "app", "name in answers")
	port := flag.Int("port", 8080, "port to listen on, IPv4 and IPv6")
	state := flag.String("state", "", "file of the shared page (see state.go), empty for none")
	calls := flag.String("call", "", "upstreams called by default, separated by commas")
	records := flag.String("records", "", "file that gets a record of every request, empty for none")
	certificate := flag.String("certificate", "", "file with a certificate and its key: speak TLS; empty for clear text")
	perConnection := flag.Int("per-connection", 0, "requests to an upstream on a connection, about: 0 any number, 1 one")
	anonymous := flag.Bool("anonymous", false, "hand on neither request ids nor trace context")
	ups := make(upstreams)
	flag.Func("upstream", "NAME=HOST=ADDRESS:PORT of an upstream, repeatable", ups.add)
	flag.Parse()

	page, err := openPage(*state)
	if err != nil {
		return err
	}
	app := &app{name: *name, page: page, upstreams: ups, client: newClient(), calls: split(*calls), forwarded: forwarded, perConnection: *perConnection}
	if *anonymous {
		app.forwarded = []string{"X-Truth-Id"}
	}
	w, err := record.Open(*records)
	if err != nil {
		return err
	}
	defer w.Close()
	server := &http.Server{Handler: recorded(app, w)} //nolint:gosec // slow clients are part of what the lab tries
	lis, err := listen(*port)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := serve(server, lis, *certificate); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on port %d: %w", *port, err)
	}
	return nil
}

func serve(server *http.Server, lis net.Listener, certificate string) error {
	if certificate == "" {
		return server.Serve(lis)
	}
	return server.ServeTLS(lis, certificate, certificate)
}

// listen opens a plain TCP socket for both families. Go would choose MPTCP, which few applications in a mesh have.
func listen(port int) (net.Listener, error) {
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(false)
	lis, err := cfg.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return lis, nil
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}
