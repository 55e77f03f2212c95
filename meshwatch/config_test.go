package meshwatch

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDefaultIsValid(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	got, err := Parse([]byte(`
request_id_headers: [X-Request-ID, X-Correlation-ID]
capture_headers: [X-Truth]
topology: {file: /etc/meshwatch/topology.yaml}
recorder: {flights: 32768}
join:
  linger: 50ms
keep: {ratio: 0.5, slow: 0s, errors: false}
export: {otlp: off}
metrics: {listen: ""}
control: {socket: /run/other.sock}
namespaces: {exclude: ["cni-*", host]}
access_logs: {envoy: [/run/meshwatch/als.sock, "0.0.0.0:9465"], haproxy: [/run/meshwatch/log.sock], haproxy_rings: [/run/meshwatch/ring.sock], use: join, per_second: 100, per_peer: 10, exchanges: 2048}
proxies: []
output: json
retain: 0
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.RequestIDHeaders = []string{"X-Request-ID", "X-Correlation-ID"}
	want.CaptureHeaders = []string{"X-Truth"}
	want.Topology.File = "/etc/meshwatch/topology.yaml"
	want.Recorder.Flights = 32768
	want.Join.Linger = 50 * time.Millisecond
	want.Keep = Keep{Ratio: 0.5, PerSecond: 100}
	want.Export.OTLP = OTLPOff
	want.Metrics.Listen = ""
	want.Control.Socket = "/run/other.sock"
	want.Namespaces.Exclude = []string{"cni-*", "host"}
	want.AccessLogs = AccessLogs{Envoy: []string{"/run/meshwatch/als.sock", "0.0.0.0:9465"}, HAProxy: []string{"/run/meshwatch/log.sock"}, HAProxyRings: []string{"/run/meshwatch/ring.sock"}, Use: UseJoin, PerSecond: 100, PerPeer: 10, Exchanges: 2048}
	want.Proxies = []string{}
	want.Output, want.Retain = OutputJSON, 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNothingSaidIsTheDefault(t *testing.T) {
	for _, text := range []string{"", "# a comment\n", "---\n", "keep:\noutput:\nproxies: ~\n", "{}"} {
		got, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(Default(), got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"keeep: 1", "line 1: unknown key keeep: the file knows request_id_headers, capture_headers, topology, recorder, join, keep, " +
			"export, metrics, control, namespaces, tls, access_logs, go, budget, depth, proxies, inject, inject_workloads, output, retain"},
		{"\nkeep:\n  raito: 1", "line 3: unknown key keep.raito: keep knows ratio, per_second, slow, errors"},
		{"keep: {ratio: lots}", "line 1: keep.ratio must be a number"},
		{"keep: {slow: 5}", "line 1: keep.slow must be a duration with its unit, such as 200ms or 1s"},
		{"keep: {errors: maybe}", "line 1: keep.errors must be true or false"},
		{"keep: [1]", "line 1: keep must be a mapping of keys to values"},
		{"retain: 1.5", "line 1: retain must be a whole number"},
		{"proxies: envoy", "line 1: proxies must be a list of words"},
		{"proxies: [[a]]", "line 1: proxies must be a list of words"},
		{"output: [json]", "line 1: output must be a word"},
		{"retain: 1\nretain: 2", "line 2: retain is set a second time"},
		{"- a", "line 1: the file must be a mapping of keys to values"},
		{"a: &x {ratio: 1}\nkeep: *x", "line 1: unknown key a: the file knows request_id_headers, capture_headers, topology, recorder, join, keep, " +
			"export, metrics, control, namespaces, tls, access_logs, go, budget, depth, proxies, inject, inject_workloads, output, retain\nline 2: keep is an alias: write the keys out"},
		{"retain: 1\n---\nretain: 2", "the file has a second document: only one is allowed"},
		{"keep: {slow: 1s", "yaml: line 1: did not find expected ',' or '}'"},
		{"recorder: {flights: 1000}", "recorder.flights is 1000: it must be a power of two from 1024 to 1048576"},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil {
			t.Errorf("%q: no error, want %s", c.text, c.want)
		} else if diff := cmp.Diff(c.want, err.Error()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.text, diff)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.RequestIDHeaders = nil }, "request_id_headers has 0 names: it must have from 1 to 8"},
		{func(c *Config) { c.CaptureHeaders = strings.Split("a b c d e f g h i", " ") }, "capture_headers has 9 names: it must have from 0 to 8"},
		{func(c *Config) { c.CaptureHeaders = []string{"x y"} },
			"capture_headers has \"x y\": it must be the name of a header field (letters, digits and !#$%&'*+-.^_`|~)"},
		{func(c *Config) { c.CaptureHeaders = []string{"cookie"} },
			"capture_headers has cookie: it carries credentials, which must not leave the process; take it off the list"},
		{func(c *Config) { c.RequestIDHeaders = []string{"Authorization"} },
			"request_id_headers has Authorization: it carries credentials, which must not leave the process; take it off the list"},
		{func(c *Config) { c.CaptureHeaders = []string{"Proxy-Authorization", "Set-Cookie"} },
			"capture_headers has Proxy-Authorization: it carries credentials, which must not leave the process; take it off the list\n" +
				"capture_headers has Set-Cookie: it carries credentials, which must not leave the process; take it off the list"},
		{func(c *Config) { c.RequestIDHeaders = []string{"X-Id", "x-id"} }, "request_id_headers has x-id twice: upper and lower case are the same"},
		{func(c *Config) { c.Join.Linger = 0 }, "join.linger is 0s: it must be from 1ms to 10s"},
		{func(c *Config) { c.Join.Parents = c.Join.Linger - 1 }, "join.parents is 99.999999ms: it must be from 100ms to 1m0s"},
		{func(c *Config) { c.Join.Expire = time.Millisecond }, "join.expire is 1ms: it must be from 1s to 1h0m0s"},
		{func(c *Config) { c.Join.Hold = time.Minute }, "join.hold is 1m0s: it must be from 1ms to 10s"},
		{func(c *Config) { c.Keep.Ratio = 1.01 }, "keep.ratio is 1.01: it must be from 0 (none) to 1 (all)"},
		{func(c *Config) { c.Keep.Ratio = math.NaN() }, "keep.ratio is NaN: it must be from 0 (none) to 1 (all)"},
		{func(c *Config) { c.Keep.PerSecond = -1 }, "keep.per_second is -1: it must be from 0 to 1000000"},
		{func(c *Config) { c.Keep.Slow = -1 }, "keep.slow is -1ns: it must be from 0s to 1h0m0s"},
		{func(c *Config) { c.Export.OTLP = "grpc" }, `export.otlp is "grpc": it must be one of auto, on, off`},
		{func(c *Config) { c.Metrics.Listen = "9464" },
			`metrics.listen is "9464": it must be an address and a port, such as 127.0.0.1:9464, or empty`},
		{func(c *Config) { c.Metrics.Listen = ":70000" },
			`metrics.listen is ":70000": it must be an address and a port, such as 127.0.0.1:9464, or empty`},
		{func(c *Config) { c.AccessLogs.Envoy = []string{"als.sock"} },
			`access_logs.envoy has "als.sock": it must be an absolute path, or an address and a port, such as 127.0.0.1:9465`},
		{func(c *Config) { c.AccessLogs.HAProxy = []string{""} },
			`access_logs.haproxy has "": it must be an absolute path, or an address and a port, such as 127.0.0.1:9465`},
		{func(c *Config) { c.AccessLogs.HAProxyRings = []string{"ring"} },
			`access_logs.haproxy_rings has "ring": it must be an absolute path, or an address and a port, such as 127.0.0.1:9465`},
		{func(c *Config) { c.AccessLogs.HAProxy = []string{"/" + strings.Repeat("x", 107)} },
			"access_logs.haproxy is \"/" + strings.Repeat("x", 107) + "\": it must be an absolute path of at most 107 bytes"},
		{func(c *Config) { c.AccessLogs.PerSecond, c.AccessLogs.PerPeer = 0, 1_000_001 },
			"access_logs.per_second is 0: it must be from 1 to 1000000\naccess_logs.per_peer is 1000001: it must be from 1 to 1000000"},
		{func(c *Config) { c.AccessLogs.Use = "guess" }, `access_logs.use is "guess": it must be one of audit, join`},
		{func(c *Config) { c.AccessLogs.Exchanges = 1 }, "access_logs.exchanges is 1: it must be from 1024 to 4194304"},
		{func(c *Config) { c.Control.Socket = "" }, `control.socket is "": it must be an absolute path of at most 107 bytes`},
		{func(c *Config) { c.Control.Socket = "mw.sock" }, `control.socket is "mw.sock": it must be an absolute path of at most 107 bytes`},
		{func(c *Config) { c.Topology.File, c.Topology.XDS.Address = "w.yaml", "istiod:15012" }, "topology has file and xds.address: give one of them, as an address that both name is nobody's"},
		{func(c *Config) { c.Topology.File, c.Topology.Kubernetes.Enabled = "w.yaml", true }, "topology has file and kubernetes.enabled: give one of them, as an address that both name is nobody's"},
		{func(c *Config) { c.Topology.Kubernetes.Enabled, c.Topology.Kubernetes.ClusterID = true, "" }, "topology.kubernetes.cluster_id is empty: it must be Istio's id of this cluster, which is Kubernetes where nobody chose another"},
		{func(c *Config) {
			c.Topology.XDS.Address, c.Topology.Kubernetes.Enabled, c.Topology.Kubernetes.ClusterID = "istiod:15012", true, "east"
		}, `topology.kubernetes.cluster_id is "east" and topology.xds.cluster_id "Kubernetes": they must be the same, so that a pod of both is known as one`},
		{func(c *Config) { c.Topology.XDS.Address = "istiod" }, `topology.xds.address is "istiod": it must be a host and a port, such as istiod.istio-system.svc:15012, or empty`},
		{func(c *Config) { c.TLS.Probes = "maybe" }, `tls.probes is "maybe": it must be one of auto, writes, off`},
		{func(c *Config) { c.Go.Probes = "yes" }, `go.probes is "yes": it must be one of on, off`},
		{func(c *Config) { c.Go.Exclude = []string{"[a"} }, `go.exclude has "[a": it must be a name or a pattern with * ? [a-z]`},
		{func(c *Config) { c.TLS.Stepped = 2 }, "tls.stepped is 2: it must be from 0 (never) to 1 (always)"},
		{func(c *Config) { c.TLS.Exclude = []string{"[a"} }, `tls.exclude has "[a": it must be a name or a pattern with * ? [a-z]`},
		{func(c *Config) { c.Inject = "all" }, `inject is "all": it must be one of off, missing`},
		{func(c *Config) { c.InjectWorkloads = []string{"[a"} }, `inject_workloads has "[a": it must be a name or a pattern with * ? [a-z]`},
		{func(c *Config) { c.Inject, c.InjectWorkloads = InjectMissing, nil }, "inject_workloads is empty and inject is missing: say whose requests are to be given ids, or set inject to off"},
		{func(c *Config) { c.Inject, c.RequestIDHeaders = InjectMissing, []string{"X-Other"} }, "inject is missing and request_id_headers lacks X-Request-ID: add it, as that is the id that requests are given"},
		{func(c *Config) { c.Namespaces.Exclude = []string{"[a"} }, `namespaces.exclude has "[a": it must be a name or a pattern with * ? [a-z]`},
		{func(c *Config) { c.Proxies = []string{"a-process-that-is-long"} },
			`proxies has "a-process-that-is-long": it must be a process name of 1 to 15 bytes, as /proc/PID/comm has it`},
		{func(c *Config) { c.Output = "yaml" }, `output is "yaml": it must be one of none, json`},
		{func(c *Config) { c.Retain = 1 << 20 }, "retain is 1048576: it must be from 0 to 100000"},
		{func(c *Config) { c.Output, c.Retain = "", -1 }, "output is \"\": it must be one of none, json\nretain is -1: it must be from 0 to 100000"},
	} {
		cfg := Default()
		c.change(&cfg)
		err := cfg.Validate()
		if err == nil {
			t.Errorf("no error, want %s", c.want)
		} else if diff := cmp.Diff(c.want, err.Error()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.yaml")
	_, err := Load(file)
	var bad *ConfigError
	if !errors.As(err, &bad) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte("retain: -1"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(file)
	want := "bad configuration in " + file + ": retain is -1: it must be from 0 to 100000"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestExportOn(t *testing.T) {
	traces := map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}
	all := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}
	empty := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": ""}
	for _, c := range []struct {
		mode string
		env  map[string]string
		want bool
	}{
		{OTLPAuto, nil, false}, {OTLPAuto, empty, false}, {OTLPAuto, traces, true}, {OTLPAuto, all, true},
		{OTLPOff, all, false}, {OTLPOn, nil, true},
	} {
		lookup := func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }
		if got := (Export{OTLP: c.mode}).on(lookup); got != c.want {
			t.Errorf("%s with %v: %v", c.mode, c.env, got)
		}
	}
}

// Whatever is in the file, Parse gives a valid configuration or an error of whole lines.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "retain: 1", "keep: {ratio: .nan}", "join: {linger: 1h}", "a: &a [*a]", "proxies: [a, \"\\0\"]", "recorder: {flights: 0x400}",
		"? [a]\n: b", "<<: {retain: 1}", "control: {socket: /\xff}", "output: !!binary aGk=", "keep: !!str x", "\t", "%YAML 9.9\n---\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Errorf("an invalid configuration came out: %v", err)
			}
		} else if err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
