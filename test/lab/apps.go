package lab

import (
	_ "embed"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/meshwatch/meshwatch/test/lab/record"
)

// App is the kind of program that serves in a pod.
type App string

// The kinds of apps.
const (
	AppPlain  App = ""       // test/lab/app; rpcapp where Options.GRPC says so
	AppTLS    App = "tls"    // test/lab/app, which speaks TLS itself: Go's crypto/tls, HTTP/1.1 and HTTP/2
	AppPython App = "python" // app.py, which speaks TLS itself: OpenSSL, HTTP/1.1
)

//go:embed app.py
var pythonApp []byte

// python is the system's: one in somebody's home cannot be run by the apps' user.
const python = "/usr/bin/python3"

// startApp starts the pod's app.
func (l *Lab) startApp(p Pod) error {
	records, err := l.makeRecords(p)
	if err != nil {
		return err
	}
	switch {
	case p.App == AppPython:
		return l.startPython(p, records)
	case l.Options.GRPC && p.App == AppPlain:
		return l.startRPC(p, records)
	}
	page, err := l.makePage(p.Name)
	if err != nil {
		return err
	}
	args := []string{"-name", p.Name, "-port", fmt.Sprint(appPort), "-state", page, "-records", records,
		"-per-connection", fmt.Sprint(l.Options.PerConnection), fmt.Sprintf("-anonymous=%t", l.Options.Anonymous)}
	if p.App == AppTLS {
		args = append(args, "-certificate", l.certificate(p.Name))
	}
	for i, r := range l.routes(p.Calls) {
		if i == 0 {
			args = append(args, "-call", r.Name)
		}
		args = append(args, "-upstream", fmt.Sprintf("%s=%s:%d=%s", r.Name, r.Host, r.Port, r.AddrPort()))
	}
	return l.serveApp(p, l.path("app"), args...)
}

// serveApp runs it as a Go program with a limit of one CPU. With two, on two cores, the mesh is a quarter slower: the app is there
// to be the cheapest part, so that what is measured is everything else.
func (l *Lab) serveApp(p Pod, path string, args ...string) error {
	return l.serve(program{pod: p, kind: "app", uid: appUID, path: path, args: args, env: []string{"GOMAXPROCS=1"}})
}

// startRPC starts an app that speaks gRPC. It calls the first of the pod's upstreams.
func (l *Lab) startRPC(p Pod, records string) error {
	args := []string{"serve", "-port", fmt.Sprint(appPort), "-records", records, "-per-connection", fmt.Sprint(l.Options.PerConnection)}
	if up := l.routes(p.Calls); len(up) > 0 {
		args = append(args, "-upstream", fmt.Sprintf("%s:%d=%s", up[0].Host, up[0].Port, up[0].AddrPort()))
	}
	return l.serveApp(p, l.path("rpcapp"), args...)
}

func (l *Lab) startPython(p Pod, records string) error {
	if !exists(python) {
		return fmt.Errorf("start the app of %s: there is no %s, install python3", p.Name, python)
	}
	script := l.path("conf", "app.py")
	if err := os.WriteFile(script, pythonApp, 0o644); err != nil {
		return fmt.Errorf("start the app of %s: %w", p.Name, err)
	}
	return l.serveApp(p, python, script, p.Name, fmt.Sprint(appPort), l.certificate(p.Name), records)
}

// recordsFile is what a pod's app, or its load, writes with Options.Records.
func (l *Lab) recordsFile(pod string) string { return l.path("logs", pod+".records") }

// makeRecords makes the file of a pod's records, and returns its name; without Options.Records none.
func (l *Lab) makeRecords(p Pod) (string, error) {
	if !l.Options.Records {
		return "", nil
	}
	name := l.recordsFile(p.Name)
	return name, makeLog(name, appUID)
}

// Records are what a pod's app has said so far of the requests that it served; the client's, what RPC said of its calls.
func (l *Lab) Records(pod string) iter.Seq2[record.Record, error] {
	if !l.Options.Records {
		return func(yield func(record.Record, error) bool) {
			yield(record.Record{}, errors.New("read records: Options.Records is off"))
		}
	}
	return record.Read(l.recordsFile(pod))
}
