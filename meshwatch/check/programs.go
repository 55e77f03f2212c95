package check

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
)

const (
	loopback = 1 // ifindex of lo in every network namespace
	// patience for a message through lo, which takes microseconds.
	patience = 2 * time.Second
)

// programs loads and attaches what the agent does, in a network namespace that goes when this returns.
func programs() (out []Result) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread, and with it the namespace, ends here
		if err := newNamespace(); err != nil {
			out = []Result{{Feature: "a network namespace to try in", State: Missing, Why: err.Error(), Do: "give it CAP_SYS_ADMIN: run it with sudo"}}
			return
		}
		out = append(tryPrograms(), injection())
	}()
	<-done
	return out
}

// newNamespace moves the thread into a network namespace of its own with lo up.
func newNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s) //nolint:errcheck // a socket without data
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func tryPrograms() (out []Result) {
	r, err := bpf.Load(bpf.Options{Sizes: bpf.Sizes{Flights: 1024, Index: 512, Sockets: 256}})
	out = append(out, rated("BPF programs load, maps are shared", err, "the verifier took all of them"))
	if err != nil {
		return append(out, withoutNetfilter())
	}
	defer r.Close() //nolint:errcheck // everything was shown by now
	for _, a := range []attempt{
		{"BPF netfilter links", "IPv4 and IPv6, at the outermost priorities", closer(r.Netfilter.Attach)},
		devices(r),
		{"tracepoints attach", "for the whole node", func() (io.Closer, error) { return io.NopCloser(nil), r.Attach() }},
	} {
		attached, err := a.attach()
		out = append(out, rated(a.name, err, a.works))
		if err != nil {
			return out
		}
		defer attached.Close() //nolint:errcheck // in a namespace that goes
	}
	return append(out, message(r))
}

// attempt is something to attach.
type attempt struct {
	name, works string
	attach      func() (io.Closer, error)
}

// devices is how packets are seen where they leave and enter devices.
func devices(r *bpf.Recorder) attempt {
	if r.TC != nil {
		return attempt{"tcx", "egress and ingress of a link, as tracepoints cannot read packets before Linux 6.11", closer(func() (*bpf.Links, error) { return r.TC.Attach(loopback) })}
	}
	return attempt{"full depth", "netif_receive_skb", func() (io.Closer, error) { return io.NopCloser(nil), r.Deep(true) }}
}

func closer(attach func() (*bpf.Links, error)) func() (io.Closer, error) {
	return func() (io.Closer, error) { return attach() }
}

// withoutNetfilter says whether the rest would work on a kernel that has no netfilter links (before 6.4).
func withoutNetfilter() Result {
	r, err := bpf.Load(bpf.Options{Sizes: bpf.Sizes{Flights: 1024, Index: 512, Sockets: 256}, NoNetfilter: true})
	if err == nil {
		err = r.Close()
	}
	return rated("BPF programs without netfilter hooks", err, "so netfilter is what is missing")
}

func rated(feature string, err error, works string) Result {
	if err == nil {
		return Result{Feature: feature, State: Works, Why: works}
	}
	r := Result{Feature: feature, State: Missing, Why: err.Error(), Do: "use Linux 6.6 or later; report this if yours is"}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		r.Do = "run it with sudo; in a container also allow bpf(2) in seccomp"
	}
	return r
}

// message sends one through lo and looks for its record.
func message(r *bpf.Recorder) Result {
	const feature = "a message is recorded"
	ring := r.Ring()
	ring.Enable(true)
	port, err := exchange()
	deadline := time.Now().Add(patience)
	for err == nil {
		for id := uint64(1); id <= ring.Last(); id++ {
			if ring.ID(id) != id {
				continue
			}
			var f bpf.Flight
			ring.Copy(&f, id)
			if f.RecvPort == port && f.RecvNs != 0 && f.SendNs != 0 && uint32(f.Flags)&bpf.FlagSYN == 0 {
				ring.Enable(false)
				return Result{Feature: feature, State: Works, Why: fmt.Sprintf("from write to read, with %d hooks between", f.Nstamps)}
			}
		}
		if time.Now().After(deadline) {
			err = errors.New("everything is attached, but a message through lo was not recorded from its write to its read")
		}
		time.Sleep(time.Millisecond)
	}
	ring.Enable(false)
	return Result{Feature: feature, State: Missing, Why: err.Error(), Do: "report this"}
}

// exchange sends a message through lo of the thread's namespace to a server of its own, whose port it tells.
func exchange() (port uint16, err error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, fmt.Errorf("listen in the namespace: %w", err)
	}
	defer l.Close() //nolint:errcheck // served its purpose
	port = uint16(l.Addr().(*net.TCPAddr).Port)
	deadline := time.Now().Add(patience)
	c, err := net.DialTimeout("tcp4", l.Addr().String(), patience)
	if err != nil {
		return port, fmt.Errorf("connect in the namespace: %w", err)
	}
	defer c.Close() //nolint:errcheck // as above
	if err := errors.Join(l.SetDeadline(deadline), c.SetDeadline(deadline)); err != nil {
		return port, err
	}
	s, err := l.Accept()
	if err != nil {
		return port, fmt.Errorf("accept in the namespace: %w", err)
	}
	defer s.Close() //nolint:errcheck // as above
	if _, err := io.WriteString(c, "GET /meshwatch-check HTTP/1.1\r\nHost: check\r\n\r\n"); err != nil {
		return port, fmt.Errorf("write: %w", err)
	}
	_, err = s.Read(make([]byte, 1024))
	return port, err
}
