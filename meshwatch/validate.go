package meshwatch

import (
	"errors"
	"fmt"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
)

const (
	maxHeaders = 8   // in one list: each is looked for in every head
	maxSocket  = 107 // sun_path of unix(7) without its final zero
	maxComm    = 15  // TASK_COMM_LEN without its final zero
	maxRetain  = 100_000
)

// Validate says everything that is wrong, naming the key and what is allowed.
func (c *Config) Validate() error {
	return errors.Join(
		headers("request_id_headers", c.RequestIDHeaders, 1),
		headers("capture_headers", c.CaptureHeaders, 0),
		c.Recorder.Validate(),
		c.Join.validate(),
		c.Keep.validate(),
		oneOf("export.otlp", c.Export.OTLP, OTLPAuto, OTLPOn, OTLPOff),
		listenAddress("metrics.listen", c.Metrics.Listen),
		socketPath("control.socket", c.Control.Socket),
		patterns("namespaces.exclude", c.Namespaces.Exclude),
		c.TLS.validate(),
		c.AccessLogs.validate(),
		oneOf("go.probes", c.Go.Probes, ProbesOn, ProbesOff),
		patterns("go.exclude", c.Go.Exclude),
		c.Topology.validate(),
		c.Budget.validate(),
		oneOf("depth", c.Depth, DepthEdges, DepthFull, DepthAuto),
		processes("proxies", c.Proxies),
		c.validateInject(),
		oneOf("output", c.Output, OutputNone, OutputJSON),
		between("retain", c.Retain, 0, maxRetain),
	)
}

func (j *Join) validate() error {
	return errors.Join(
		within("join.linger", j.Linger, time.Millisecond, 10*time.Second),
		within("join.parents", j.Parents, j.Linger, time.Minute),
		within("join.expire", j.Expire, time.Second, time.Hour),
		within("join.hold", j.Hold, time.Millisecond, 10*time.Second),
	)
}

func (k *Keep) validate() error {
	var ratio error
	if !(k.Ratio >= 0 && k.Ratio <= 1) { // false for NaN as well
		ratio = fmt.Errorf("keep.ratio is %v: it must be from 0 (none) to 1 (all)", k.Ratio)
	}
	return errors.Join(
		ratio,
		between("keep.per_second", k.PerSecond, 0, 1_000_000),
		within("keep.slow", k.Slow, 0, time.Hour),
	)
}

func (t *Topology) validate() error {
	var both, ids error
	switch {
	case t.File != "" && t.XDS.Address != "":
		both = errors.New("topology has file and xds.address: give one of them, as an address that both name is nobody's")
	case t.File != "" && t.Kubernetes.Enabled:
		both = errors.New("topology has file and kubernetes.enabled: give one of them, as an address that both name is nobody's")
	}
	if k := &t.Kubernetes; k.Enabled && t.XDS.Address != "" && k.ClusterID != t.XDS.ClusterID {
		ids = fmt.Errorf("topology.kubernetes.cluster_id is %q and topology.xds.cluster_id %q: they must be the same, so that a pod of both is known as one", k.ClusterID, t.XDS.ClusterID)
	}
	x, k := t.XDS.settings(), t.Kubernetes.settings()
	return errors.Join(both, ids, x.Validate("topology.xds"), k.Validate("topology.kubernetes"))
}

func (t *TLS) validate() error {
	var share error
	if !(t.Stepped >= 0 && t.Stepped <= 1) { // false for NaN as well
		share = fmt.Errorf("tls.stepped is %v: it must be from 0 (never) to 1 (always)", t.Stepped)
	}
	return errors.Join(oneOf("tls.probes", t.Probes, ProbesAuto, ProbesWrites, ProbesOff), patterns("tls.exclude", t.Exclude), share)
}

func (c *Config) validateInject() error {
	err := errors.Join(oneOf("inject", c.Inject, InjectOff, InjectMissing), patterns("inject_workloads", c.InjectWorkloads))
	if c.Inject != InjectMissing {
		return err
	}
	if len(c.InjectWorkloads) == 0 {
		err = errors.Join(err, errors.New("inject_workloads is empty and inject is missing: say whose requests are to be given ids, or set inject to off"))
	}
	if len(otherIDs(c.RequestIDHeaders)) == len(c.RequestIDHeaders) {
		err = errors.Join(err, fmt.Errorf("inject is missing and request_id_headers lacks %s: add it, as that is the id that requests are given", bpf.RequestIDHeader))
	}
	return err
}

// otherIDs are the fields that carry a request id but the one that requests are given.
func otherIDs(headers []string) []string {
	return slices.DeleteFunc(slices.Clone(headers), func(name string) bool { return strings.EqualFold(name, bpf.RequestIDHeader) })
}

func (a *AccessLogs) validate() error {
	return errors.Join(
		sockets("access_logs.envoy", a.Envoy),
		sockets("access_logs.haproxy", a.HAProxy),
		sockets("access_logs.haproxy_rings", a.HAProxyRings),
		oneOf("access_logs.use", a.Use, UseAudit, UseJoin),
		between("access_logs.per_second", a.PerSecond, 1, 1_000_000),
		between("access_logs.per_peer", a.PerPeer, 1, 1_000_000),
		between("access_logs.exchanges", a.Exchanges, 1<<10, 1<<22),
	)
}

// sockets are paths or HOST:PORT.
func sockets(key string, list []string) error {
	var errs []error
	for _, where := range list {
		if filepath.IsAbs(where) {
			errs = append(errs, socketPath(key, where))
			continue
		}
		if err := listenAddress(key, where); err != nil || where == "" {
			errs = append(errs, fmt.Errorf("%s has %q: it must be an absolute path, or an address and a port, such as 127.0.0.1:9465", key, where))
		}
	}
	return errors.Join(errs...)
}

func headers(key string, list []string, atLeast int) error {
	var errs []error
	if len(list) < atLeast || len(list) > maxHeaders {
		errs = append(errs, fmt.Errorf("%s has %d names: it must have from %d to %d", key, len(list), atLeast, maxHeaders))
	}
	seen := map[string]bool{}
	for _, name := range list {
		lower := strings.ToLower(name)
		switch {
		case !isToken(name):
			errs = append(errs, fmt.Errorf("%s has %q: it must be the name of a header field (letters, digits and !#$%%&'*+-.^_`|~)", key, name))
		case slices.Contains(head.Credentials(), lower):
			errs = append(errs, fmt.Errorf("%s has %s: it carries credentials, which must not leave the process; take it off the list", key, name))
		case seen[lower]:
			errs = append(errs, fmt.Errorf("%s has %s twice: upper and lower case are the same", key, name))
		}
		seen[lower] = true
	}
	return errors.Join(errs...)
}

// isToken says whether a header field can have that name, RFC 9110 5.6.2.
func isToken(s string) bool {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}
	return s != "" && len(s) <= 128 && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0
}

func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s is %q: it must be one of %s", key, value, strings.Join(allowed, ", "))
}

func between(key string, value, least, most int) error {
	if value >= least && value <= most {
		return nil
	}
	return fmt.Errorf("%s is %d: it must be from %d to %d", key, value, least, most)
}

func within(key string, value, least, most time.Duration) error {
	if value >= least && value <= most {
		return nil
	}
	return fmt.Errorf("%s is %v: it must be from %v to %v", key, value, least, most)
}

func listenAddress(key, value string) error {
	if value == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s is %q: it must be an address and a port, such as 127.0.0.1:9464, or empty", key, value)
	}
	return nil
}

func socketPath(key, value string) error {
	if filepath.IsAbs(value) && len(value) <= maxSocket && !strings.ContainsRune(value, 0) && filepath.Clean(value) != "/" {
		return nil
	}
	return fmt.Errorf("%s is %q: it must be an absolute path of at most %d bytes", key, value, maxSocket)
}

func patterns(key string, list []string) error {
	var errs []error
	for _, p := range list {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			errs = append(errs, fmt.Errorf("%s has %q: it must be a name or a pattern with * ? [a-z]", key, p))
		}
	}
	return errors.Join(errs...)
}

func processes(key string, list []string) error {
	var errs []error
	for _, name := range list {
		if name == "" || len(name) > maxComm {
			errs = append(errs, fmt.Errorf("%s has %q: it must be a process name of 1 to %d bytes, as /proc/PID/comm has it", key, name, maxComm))
		}
	}
	return errors.Join(errs...)
}
