// Command rpcapp is the lab's gRPC application (serve) and what loads it (load).
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshwatch/meshwatch/test/lab/record"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	run := map[string]func(context.Context, []string) error{"serve": serve, "load": load}
	if len(os.Args) < 2 || run[os.Args[1]] == nil {
		slog.Error("rpcapp: want serve or load")
		os.Exit(2)
	}
	if err := run[os.Args[1]](ctx, os.Args[2:]); err != nil {
		slog.Error("rpcapp stopped", "error", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	port := flags.Int("port", 8080, "port to listen on, IPv4 and IPv6")
	upstream := flags.String("upstream", "", "HOST=ADDRESS:PORT of who is called, empty: nobody")
	records := flags.String("records", "", "file that gets a record of every call")
	perConnection := flags.Int("per-connection", 0, "calls to it on a connection, 0: any number")
	_ = flags.Parse(args) // it exits
	w, err := record.Open(*records)
	if err != nil {
		return err
	}
	defer w.Close()
	app := &rpc.App{Records: w}
	if *upstream != "" {
		host, address, _ := strings.Cut(*upstream, "=")
		conn := rpc.NewConn(func() (*grpc.ClientConn, error) { return dial(address, host, nil) }, *perConnection)
		defer conn.Close()
		app.Upstream = conn
	}
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(false)
	lis, err := cfg.Listen(ctx, "tcp", fmt.Sprintf(":%d", *port))
	if err != nil {
		return fmt.Errorf("listen on port %d: %w", *port, err)
	}
	server := app.Server()
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(lis)
}

// dial makes a connection that names host as its authority; with roots it speaks TLS.
func dial(address, host string, roots *x509.CertPool) (*grpc.ClientConn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	security := insecure.NewCredentials()
	if roots != nil {
		security = credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(security),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }),
	}
	if host != "" {
		opts = append(opts, grpc.WithAuthority(host))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

func load(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	var w rpc.Load
	address := flags.String("address", "", "ADDRESS:PORT of who is called")
	ca := flags.String("ca", "", "file with who signs certificates; empty: no TLS")
	methods := flags.String("methods", rpc.Echo, "what is called in turn, separated by commas")
	records := flags.String("records", "", "file that gets a record of every call")
	flags.IntVar(&w.Connections, "connections", 1, "connections")
	flags.IntVar(&w.Calls, "calls", 16, "calls under way at a time")
	flags.DurationVar(&w.Duration, "duration", 10*time.Second, "how long calls begin")
	flags.IntVar(&w.PerConnection, "per-connection", 0, "calls on a connection, 0: any number")
	flags.StringVar(&w.Run, "run", "run", "what truth ids begin with")
	_ = flags.Parse(args) // it exits
	w.Methods = strings.Split(*methods, ",")
	var roots *x509.CertPool
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			return fmt.Errorf("read who signs certificates: %w", err)
		}
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
	}
	var err error
	if w.Records, err = record.Open(*records); err != nil {
		return err
	}
	defer w.Records.Close()
	w.Dial = func() (*grpc.ClientConn, error) { return dial(*address, "", roots) }
	r, err := rpc.Send(ctx, w)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r.Summary())
}
