package lab

import (
	"embed"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"text/template"

	"github.com/meshwatch/meshwatch/meshwatch/proxylog"
)

//go:embed conf
var conf embed.FS

// proxyConf is what the templates under conf are filled from.
type proxyConf struct {
	Pod          Pod
	AccessLog    string      // file that Envoy writes, empty: no access log
	LogThreads   []logThread // HAProxy's frontends, see there
	ALS          string      // unix socket that Envoy tells its access log to, empty: none
	Said         string      // unix stream socket that HAProxy's ring tells its log to, empty: none
	AppPort      int
	GatewayPort  int
	OutboundPort int
	InboundPort  int
	Routes       []route
	IPv6         bool
	Threads      int
	Certificate  string // file with the pod's certificate and key, empty: clear text
	CA           string // file with who signed it
	ServeTLS     bool   // of a gateway: clients speak TLS to it
	HTTP2        bool   // sidecars speak it to each other
	GRPC         bool   // and everybody else

	PerConnection int // requests on a connection, see Options
}

// protocol is what Envoy speaks to the hosts of a cluster.
type protocol struct {
	HTTP2         bool
	PerConnection int
}

// ToPeers is what a sidecar speaks to other pods, ToApp to its own app.
func (c proxyConf) ToPeers() protocol { return protocol{c.HTTP2 || c.GRPC, c.PerConnection} }

// ToApp is for templates, see ToPeers.
func (c proxyConf) ToApp() protocol { return protocol{c.GRPC, c.PerConnection} }

// MaxReuse is for templates: how often HAProxy uses a connection again.
func (c proxyConf) MaxReuse() int { return c.PerConnection - 1 }

// ToALS is for templates, see ToPeers.
func (c proxyConf) ToALS() protocol { return protocol{HTTP2: true} }

// logThread is a copy of HAProxy's frontends. Threads that log to one descriptor at the same time lose lines (0.7 % of
// them under load, HAProxy 2.6), so with access logs each thread has frontends, a descriptor and a file of its own
// (HAProxy takes O_APPEND off). Without, there is one copy for all threads.
type logThread struct {
	Thread int // from 1, 0: all
	FD     int // inherited, 0: no access log
}

// Name ends the name of the thread's frontends.
func (t logThread) Name() string {
	if t.Thread == 0 {
		return ""
	}
	return fmt.Sprint(t.Thread)
}

// Bind ends the thread's bind lines.
func (t logThread) Bind() string {
	if t.Thread == 0 {
		return ""
	}
	return fmt.Sprintf(" thread %d", t.Thread)
}

// listenerLog says where a frontend logs, and as what.
type listenerLog struct {
	FD       int
	Listener string
	Said     string // see proxyConf
}

// Log is for templates.
func (c proxyConf) Log(t logThread, listener string) listenerLog {
	return listenerLog{t.FD, listener, c.Said}
}

// SaidFormat is for templates.
func (listenerLog) SaidFormat() string { return proxylog.LogFormat }

// route is a service that a proxy can send requests to.
type route struct {
	Name    string
	Host    string // how requests name it
	Address string // of its pod
	Port    int
}

// AddrPort is the route's address as HAProxy and URLs write it.
func (r route) AddrPort() string {
	return netip.AddrPortFrom(netip.MustParseAddr(r.Address), uint16(r.Port)).String() //nolint:gosec // a port
}

// proxyThreads is how many workers each proxy has, where Options.Threads does not say.
const proxyThreads = 2

func (l *Lab) threads() int {
	if l.Options.Threads > 0 {
		return l.Options.Threads
	}
	return proxyThreads
}

// appUID is the user that apps run as: any but the sidecars'.
const appUID = 1000

// startProxy starts the pod's sidecar or gateway, if it has one.
func (l *Lab) startProxy(p Pod) error {
	switch {
	case p.Role == RoleGateway:
		return l.startHAProxy(p, "gateway.cfg", "proxy")
	case p.Sidecar && l.Options.Sidecar == SidecarHAProxy:
		return l.startHAProxy(p, "sidecar.cfg", "sidecar")
	case p.Sidecar:
		return l.startEnvoy(p)
	}
	return nil
}

func (l *Lab) startHAProxy(p Pod, config, kind string) error {
	c := l.proxyConf(p)
	c.LogThreads = []logThread{{}}
	prog := program{pod: p, kind: kind, uid: sidecarUID, path: "/usr/sbin/haproxy"}
	if l.Options.AccessLogs {
		const firstFD = 3 // of exec.Cmd.ExtraFiles
		c.LogThreads = nil
		for i := range l.threads() {
			out, err := os.OpenFile(fmt.Sprintf("%s.%d", l.accessLog(p), i+1), os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("make access log: %w", err)
			}
			defer out.Close()
			prog.files = append(prog.files, out)
			c.LogThreads = append(c.LogThreads, logThread{Thread: i + 1, FD: firstFD + i})
		}
	}
	file, err := l.render(config, p.Name+".cfg", c)
	if err != nil {
		return err
	}
	prog.args = []string{"-db", "-f", file}
	return l.serve(prog)
}

func (l *Lab) startEnvoy(p Pod) error {
	bin, err := l.envoy()
	if err != nil {
		return err
	}
	c := l.proxyConf(p)
	if l.Options.AccessLogs {
		c.AccessLog = l.accessLog(p)
		if err := makeLog(c.AccessLog, sidecarUID); err != nil {
			return err
		}
	}
	file, err := l.render("envoy.yaml", p.Name+".yaml", c)
	if err != nil {
		return err
	}
	return l.serve(program{pod: p, kind: "sidecar", uid: sidecarUID, path: bin, args: []string{
		"-c", file, "--concurrency", fmt.Sprint(l.threads()), "--disable-hot-restart", "--log-level", "warning",
		"--file-flush-interval-msec", "200", "--service-node", p.Name, "--service-cluster", "meshwatch-lab",
	}})
}

// proxyConf tells a proxy what it must know: a gateway serves the frontend, a sidecar what its app calls.
func (l *Lab) proxyConf(p Pod) proxyConf {
	calls := p.Calls
	if p.Role == RoleGateway {
		calls = []string{"frontend"}
	}
	c := proxyConf{
		Pod: p, Routes: l.routes(calls), IPv6: l.Options.IPv6, Threads: l.threads(),
		AppPort: appPort, GatewayPort: gatewayPort, OutboundPort: outboundPort, InboundPort: inboundPort,
	}
	c.ALS, c.Said = l.Options.ALS, l.Options.Said
	c.HTTP2, c.GRPC, c.PerConnection = l.Options.HTTP2, l.Options.GRPC, l.Options.PerConnection
	if l.Options.TLS {
		c.Certificate, c.CA, c.ServeTLS = l.certificate(p.Name), l.CAFile(), true
	}
	return c
}

func (l *Lab) routes(names []string) []route {
	var routes []route
	for _, name := range names {
		if i := l.find(name); i >= 0 {
			p := l.List[i]
			routes = append(routes, route{Name: name, Host: p.host(), Address: l.meshAddr(p).String(), Port: appPort})
		}
	}
	return routes
}

// render fills a template into a file that everyone may read.
func (l *Lab) render(name, to string, data any) (string, error) {
	tmpl, err := template.ParseFS(conf, "conf/"+name, "conf/parts.tmpl")
	if err != nil {
		return "", fmt.Errorf("read template %s: %w", name, err)
	}
	var out strings.Builder
	if err := tmpl.ExecuteTemplate(&out, name, data); err != nil {
		return "", fmt.Errorf("fill template %s: %w", name, err)
	}
	file := l.path("conf", to)
	if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return file, nil
}

// makeLog makes an empty file that a proxy may write.
func makeLog(name string, uid int) error {
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	if err := os.Chown(name, uid, uid); err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	return nil
}
