// Package meshwatch is the agent: it puts the recorder, the datapath, the joiner and what goes out together.
package meshwatch

import (
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/audit"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/topology/kube"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// The comments on Config's fields are the option's text in docs/configuration.md: TestReference compares, and writes them
// with -update.

// Config is everything that can be set, as one YAML file has it. Default makes one, Load reads one; it is not changed later.
type Config struct {
	// Request header fields that carry a request id, strongest first. Ids are what joins the legs of a request through a process. At most 8.
	RequestIDHeaders []string `yaml:"request_id_headers"`
	// Request header fields to put on legs (OTel `http.request.header.<name>`). Never used to join. Those that carry credentials are refused.
	CaptureHeaders []string `yaml:"capture_headers"`

	Topology   Topology   `yaml:"topology"`
	Recorder   bpf.Sizes  `yaml:"recorder"`
	Join       Join       `yaml:"join"`
	Keep       Keep       `yaml:"keep"`
	Export     Export     `yaml:"export"`
	Metrics    Metrics    `yaml:"metrics"`
	Control    Control    `yaml:"control"`
	Namespaces Namespaces `yaml:"namespaces"`
	TLS        TLS        `yaml:"tls"`
	AccessLogs AccessLogs `yaml:"access_logs"`
	Go         Go         `yaml:"go"`
	Budget     Budget     `yaml:"budget"`

	// How much of a message's way is recorded: `edges` (from the sending socket to the receiving one, and where it leaves), `full` (every
	// netfilter hook and device between, too), or `auto`: edges, and full where something left its baseline, where somebody asks
	// (`meshwatch hops --deep`), and in turns of a second every 10 s, one network namespace at a time.
	Depth string `yaml:"depth"`
	// Process names (`comm`, at most 15 bytes) that are proxies: one request in, the same request out.
	Proxies []string `yaml:"proxies"`
	// Whether the kernel puts an X-Request-ID line into requests of `inject_workloads` to their own sidecars that have none, where they are HTTP/1 in clear text: `missing`, or `off`.
	Inject string `yaml:"inject"`
	// Whose: names, or patterns with * ? [a-z], of workloads as the topology calls them (`namespace/name`, in Kubernetes the pod's), or of network namespaces. `*` is all that have a sidecar.
	InjectWorkloads []string `yaml:"inject_workloads"`
	// What goes to standard output: `none`, or `json` for one line per journey, kept or not (docs/journey-json.md).
	Output string `yaml:"output"`
	// Journeys that `meshwatch trace` can still show, at about 25 KB each. From 0 to 100000.
	Retain int `yaml:"retain"`
}

// Topology is who is behind an address.
type Topology struct {
	// File with workloads by address (docs/topology-file.md), followed while it changes. Empty: ends are named by namespace and process.
	File string `yaml:"file"`
	// A control plane to ask instead of a file.
	XDS XDS `yaml:"xds"`
	// An API server to ask, besides a control plane or alone.
	Kubernetes Kubernetes `yaml:"kubernetes"`
}

// Kubernetes is an API server that tells of pods, services and Istio's resources.
type Kubernetes struct {
	// Ask the API server: pods of this node, endpoints, services, nodes, and what Istio's and the Gateway API's resources say. It needs the rules of charts/rbac.yaml.
	Enabled bool `yaml:"enabled"`
	// Path of a kubeconfig. Empty: the service account of the agent's own pod.
	Kubeconfig string `yaml:"kubeconfig"`
	// Name of this node. Empty: the environment's NODE_NAME, else the host's name.
	Node string `yaml:"node"`
	// Istio's id of this cluster. With a control plane, the same as `topology.xds.cluster_id`.
	ClusterID string `yaml:"cluster_id"`
}

func (k *Kubernetes) settings() kube.Settings {
	return kube.Settings{Enabled: k.Enabled, Kubeconfig: k.Kubeconfig, ClusterID: k.ClusterID}
}

// XDS is a control plane that tells who is behind an address: istiod, by workload discovery.
type XDS struct {
	// Host and port, such as istiod.istio-system.svc:15012. Empty: none.
	Address string `yaml:"address"`
	// How it is talked to: `mtls` (with a certificate that istiod's CA gives for the token), `token` (over TLS), or `plaintext` (istiod's port 15010).
	Security string `yaml:"security"`
	// Certificates that its own must be signed by, PEM: what is in the ConfigMap istio-ca-root-cert.
	RootFile string `yaml:"root_file"`
	// Service account token for istiod (audience istio-ca). Read anew each time.
	TokenFile string `yaml:"token_file"`
	// Name in its certificate. Empty: the host of the address.
	ServerName string `yaml:"server_name"`
	// Istio's id of this cluster.
	ClusterID string `yaml:"cluster_id"`
	// Ask, too, for what the proxies of this node are told at which requests are seen: journeys then say by which route each went. To the control plane that is another proxy for each.
	Proxies bool `yaml:"proxies"`
	// The mesh's trust domain, such as cluster.local: with `mtls`, ask for that with certificates of the proxies' own accounts, for which the agent's account must be among istiod's `CA_TRUSTED_NODE_ACCOUNTS`. Empty: as the agent itself, whom istiod tells of its own namespace only.
	TrustDomain string `yaml:"trust_domain"`
}

func (x *XDS) settings() xds.Settings {
	return xds.Settings{
		Address: x.Address, Security: x.Security, RootFile: x.RootFile, TokenFile: x.TokenFile, ServerName: x.ServerName, ClusterID: x.ClusterID, TrustDomain: x.TrustDomain,
	}
}

// Join has the joiner's times. See join.Config.
type Join struct {
	// How long a request whose exchanges are all over waits for more of them. From 1ms to 10s.
	Linger time.Duration `yaml:"linger"`
	// The same for a request whose first process was itself asked by someone: its caller may still be on its way. From `linger` to 1m.
	Parents time.Duration `yaml:"parents"`
	// When a request without a response is given up. From 1s to 1h.
	Expire time.Duration `yaml:"expire"`
	// How long a flight waits for the one before it on its connection. From 1ms to 10s.
	Hold time.Duration `yaml:"hold"`
}

// Keep says which journeys become spans, lines and traces. Metrics and `meshwatch hops` count all of them.
type Keep struct {
	// Share of the journeys that is kept, from 0 to 1. Chosen by request id, so that all agents choose the same.
	Ratio float64 `yaml:"ratio"`
	// Most journeys that are kept in one second, slow and failed ones included. 0: no limit.
	PerSecond int `yaml:"per_second"`
	// A journey of at least this duration is kept whatever its request id. 0s: none for this reason.
	Slow time.Duration `yaml:"slow"`
	// Keep a journey with a failed exchange (5xx, reset, no response) whatever its request id.
	Errors bool `yaml:"errors"`
}

// Export is where spans go.
type Export struct {
	// `auto`: on where OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set. `on`: also without, to localhost. `off`. Endpoint, protocol, headers and certificates are the OTEL_EXPORTER_OTLP_* environment's.
	OTLP string `yaml:"otlp"`
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	// Address and port of /metrics and /healthz. Empty: off.
	Listen string `yaml:"listen"`
}

// Control is how the command line reaches the agent.
type Control struct {
	// Unix socket of the agent, mode 0600. An absolute path of at most 107 bytes.
	Socket string `yaml:"socket"`
}

// Namespaces are the network namespaces to watch.
type Namespaces struct {
	// Names, or patterns with * ? [a-z], of network namespaces not to attach to (`meshwatch path` lists names).
	Exclude []string `yaml:"exclude"`
}

// TLS says what is read of encrypted traffic. Of what is read, nothing but request_id_headers' ids, trace contexts, capture_headers and
// what HTTP is about (method, path, status) leaves the agent.
type TLS struct {
	// Probes on the TLS libraries of processes (OpenSSL, BoringSSL, Go's crypto/tls), without which a message with TLS is recorded, but not joined: `auto` (where they take plaintext to send; and where they give what they received, if its sender has no probes), `writes` (the first alone), or `off`.
	Probes string `yaml:"probes"`
	// Names, or patterns with * ? [a-z], of network namespaces of whose processes no plaintext is read.
	Exclude []string `yaml:"exclude"`
	// Share of the time that a library has its probes on whose probed instructions the CPU must single-step (`meshwatch check` says which; OpenSSL mostly): 12 µs a call instead of 1. From 0 (never) to 1.
	Stepped float64 `yaml:"stepped"`
}

// AccessLogs are what proxies say of themselves (docs/audit.md). `meshwatch audit` compares the joins that were made without it.
type AccessLogs struct {
	// Where Envoy's access log service (gRPC) is served: absolute paths of unix sockets, which every user may write to, or HOST:PORT.
	Envoy []string `yaml:"envoy"`
	// Where lines of HAProxy's log are taken: absolute paths of unix datagram sockets, or HOST:PORT for UDP.
	HAProxy []string `yaml:"haproxy"`
	// Where HAProxy's rings are served (`log-proto octet-count`), which lose no line: absolute paths of unix stream sockets, or HOST:PORT for TCP.
	HAProxyRings []string `yaml:"haproxy_rings"`
	// What it is for: `audit` (comparing alone), or `join` (also joins, where request ids do not decide; exchanges of a proxy that logs wait up to 1.5 s for what it says). Joins made of it are not compared.
	Use string `yaml:"use"`
	// Most entries that are read in one second. From 1 to 1000000.
	PerSecond int `yaml:"per_second"`
	// Most of them from one process (unix sockets) or address. From 1 to 1000000.
	PerPeer int `yaml:"per_peer"`
	// Exchanges (a request and its response on one connection) that are remembered to compare with, at about 700 B each. From 1024 to 4194304.
	Exchanges int `yaml:"exchanges"`
}

// on says whether anybody may say anything.
func (a *AccessLogs) on() bool { return len(a.Envoy)+len(a.HAProxy)+len(a.HAProxyRings) > 0 }

// The values of AccessLogs.Use.
const (
	UseAudit = "audit"
	UseJoin  = "join"
)

// Go says what is looked at in programs written in Go. Nothing is read of them but numbers of goroutines.
type Go struct {
	// Probes on the client of Go's net/http, by which a request that an app makes is joined with the one that it is made for, although the app forwards no id: in whose goroutine, or whose child, is it made? `on` (two traps of about 1 µs for each request that a Go program makes), or `off`.
	Probes string `yaml:"probes"`
	// Names, or patterns with * ? [a-z], of network namespaces of whose processes nothing is noted.
	Exclude []string `yaml:"exclude"`
}

// The values of TLS.Probes and Go.Probes.
const (
	ProbesOn     = "on"
	ProbesAuto   = "auto"
	ProbesWrites = "writes"
	ProbesOff    = "off"
)

// Budget is what meshwatch may cost. Above it there is no full depth, and if that is not enough only a share of the time is
// recorded; status, metrics and spans say so.
type Budget struct {
	// CPUs that the agent may use, over a few seconds: 0.2 is a fifth of one. 0: no limit; else from 0.01 to 1000.
	Agent float64 `yaml:"agent"`
	// CPUs that the recorder's BPF programs may use, by the kernel's own count (`bpf_stats`), on the whole node. 0: no limit; else from 0.01 to 1000.
	Recorder float64 `yaml:"recorder"`
}

// DefaultSocket is where the agent listens and the command line looks.
const DefaultSocket = "/run/meshwatch/meshwatch.sock"

// The values of Config.Inject.
const (
	InjectOff     = "off"
	InjectMissing = "missing"
)

// The values of Config.Output and Export.OTLP.
const (
	OutputNone = "none"
	OutputJSON = "json"

	OTLPAuto = "auto"
	OTLPOn   = "on"
	OTLPOff  = "off"
)

// on says whether spans go out. lookup is os.LookupEnv.
func (e Export) on(lookup func(string) (string, bool)) bool {
	if e.OTLP != OTLPAuto {
		return e.OTLP == OTLPOn
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		if v, _ := lookup(name); v != "" {
			return true
		}
	}
	return false
}

// Default is what an empty file means.
func Default() Config {
	j := join.DefaultConfig(nil)
	return Config{
		RequestIDHeaders: []string{head.DefaultRequestIDHeader},
		CaptureHeaders:   []string{},
		Recorder:         bpf.DefaultSizes(),
		Join:             Join{Linger: j.Linger, Parents: j.Parents, Expire: j.Expire, Hold: j.Hold},
		Keep:             Keep{Ratio: 1, PerSecond: 100, Slow: time.Second, Errors: true},
		Export:           Export{OTLP: OTLPAuto},
		Metrics:          Metrics{Listen: "127.0.0.1:9464"}, // OpenTelemetry's port for Prometheus
		Control:          Control{Socket: DefaultSocket},
		Namespaces:       Namespaces{Exclude: []string{}},
		Topology: Topology{XDS: XDS{
			Security: xds.MTLS, RootFile: "/var/run/secrets/istio/root-cert.pem", TokenFile: "/var/run/secrets/tokens/istio-token", ClusterID: "Kubernetes", // as Istio mounts them
		}, Kubernetes: Kubernetes{ClusterID: "Kubernetes"}},
		AccessLogs: AccessLogs{Envoy: []string{}, HAProxy: []string{}, HAProxyRings: []string{}, Use: UseAudit, PerSecond: 10000, PerPeer: 5000, Exchanges: audit.DefaultConfig().Exchanges},
		TLS:        TLS{Probes: ProbesAuto, Exclude: []string{}, Stepped: 1},
		Go:         Go{Probes: ProbesOn, Exclude: []string{}},
		Budget:     Budget{Agent: 0.2, Recorder: 0.2},
		Depth:      DepthAuto,
		Proxies:    []string{"envoy", "haproxy", "nginx", "pilot-agent", "traefik"},
		Inject:     InjectOff,
		Output:     OutputNone,
		Retain:     2000,

		InjectWorkloads: []string{"*"},
	}
}
