// Package jaeger runs a real Jaeger for tests and asks it what it understood of our spans.
package jaeger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Jaeger is a running Jaeger that keeps traces in memory. It listens on loopback of the caller's network namespace.
type Jaeger struct {
	GRPC  string // endpoint for OTEL_EXPORTER_OTLP_ENDPOINT with protocol grpc
	HTTP  string // the same with http/protobuf
	Query string // base URL of its API
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone
	log   bytes.Buffer  // read only after ended
}

// Find looks for the Jaeger that test/install.sh builds, from the working directory upwards. os.ErrNotExist: not built yet.
func Find() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, "test", ".cache", "bin", "jaeger")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("find test/.cache/bin/jaeger (test/install.sh builds it): %w", os.ErrNotExist)
		}
		dir = up
	}
}

const (
	startWithin = 30 * time.Second // 0.3 s on a free machine
	attempts    = 3                // a port that was free can be taken before Jaeger has it
)

// Start runs the binary with its configuration in dir, and returns when it answers. It dies with this process.
func Start(ctx context.Context, binary, dir string) (*Jaeger, error) {
	var errs []error
	for range attempts {
		j, err := launch(ctx, binary, dir)
		if err == nil {
			return j, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func launch(ctx context.Context, binary, dir string) (*Jaeger, error) {
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "jaeger.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, configuration, ports[0], ports[1], ports[2], ports[3]), 0o600); err != nil {
		return nil, err
	}
	j := &Jaeger{GRPC: "http://" + ports[0], HTTP: "http://" + ports[1], Query: "http://" + ports[2], ended: make(chan struct{})}
	j.cmd = exec.Command(binary, "--config", config)
	j.cmd.Stdout, j.cmd.Stderr = &j.log, &j.log
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := j.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start jaeger: %w", err)
	}
	go func() {
		defer close(j.ended)
		_ = j.cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := j.ready(ctx); err != nil {
		j.Stop()
		return nil, fmt.Errorf("%w\n%s", err, tail(j.log.Bytes()))
	}
	return j, nil
}

func (j *Jaeger) ready(ctx context.Context) error {
	up := map[string]bool{}
	for {
		for _, url := range []string{j.GRPC, j.HTTP, j.Query} {
			if c, err := net.DialTimeout("tcp", url[len("http://"):], time.Second); err == nil {
				c.Close() //nolint:errcheck // only to see whether it listens
				up[url] = true
			}
		}
		if len(up) == 3 {
			if status, _, _ := j.get(ctx, "/api/services"); status == http.StatusOK {
				return nil
			}
		}
		select {
		case <-j.ended:
			return errors.New("jaeger ended at once")
		case <-ctx.Done():
			return fmt.Errorf("wait for jaeger to listen: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop kills Jaeger and waits until it is gone: all it has is in memory, and asked to stop it waits 5 s for idle connections.
func (j *Jaeger) Stop() {
	_ = j.cmd.Process.Kill()
	<-j.ended
}

func tail(log []byte) []byte { return log[max(0, len(log)-2000):] }

func freePorts(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() //nolint:errcheck // all stay taken until n are found
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// configuration takes four addresses: OTLP gRPC, OTLP HTTP, query HTTP, query gRPC.
const configuration = `service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
  telemetry:
    metrics:
      level: none
    logs:
      level: warn
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "%s"}
      http: {endpoint: "%s"}
extensions:
  jaeger_query:
    storage: {traces: memory}
    http: {endpoint: "%s"}
    grpc: {endpoint: "%s"}
  jaeger_storage:
    backends:
      memory:
        memory: {max_traces: 10000}
exporters:
  jaeger_storage_exporter:
    trace_storage: memory
`
