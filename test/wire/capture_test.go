package wire

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/nets"
)

// TestPacketSocket: no packet of another link is seen, also none that comes while the socket is being made.
func TestPacketSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the namespace it is in
		failed <- inQuietNamespace(t)
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

func inQuietNamespace(t *testing.T) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "quiet"
	if err := errors.Join(h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}), nets.Up(h, "quiet"), nets.Up(h, "lo")); err != nil {
		return err
	}
	quiet, err := h.LinkByName("quiet")
	if err != nil {
		return err
	}
	loud, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		return err
	}
	defer loud.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = loud.Write([]byte("x")) // nobody listens: every other one is an error
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	const tries = 100
	for range tries {
		runtime.Gosched()
		fd, err := packetSocket(quiet.Attrs().Index)
		if err != nil {
			return err
		}
		n, _, err := unix.Recvfrom(fd, make([]byte, 64), unix.MSG_DONTWAIT)
		_ = unix.Close(fd)
		if err == nil {
			t.Errorf("%d bytes of another link", n)
			break
		}
	}
	return nil
}

// TestPacket reads a segment of either family, and nothing that is not one.
func TestPacket(t *testing.T) {
	segment := append([]byte{0x1f, 0x90, 0x1f, 0x91, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x10, 0, 0, 0, 0, 0, 0}, "text"...)
	v4 := append([]byte{12: 8, 13: 0, 14: 0x45, 17: 44, 23: unix.IPPROTO_TCP, 26: 10, 29: 1, 30: 10, 33: 2}, segment...)
	v6 := append([]byte{12: 0x86, 13: 0xdd, 14: 0x60, 19: 24, 20: unix.IPPROTO_TCP, 22: 0xfd, 37: 1, 38: 0xfd, 53: 2}, segment...)
	for want, frame := range map[string][]byte{"10.0.0.1:8080 10.0.0.2:8081": v4, "[fd00::1]:8080 [fd00::2]:8081": v6} {
		k := &Capture{streams: map[[2]netip.AddrPort]*Stream{}}
		k.packet(append(frame, 0, 0)) // what Ethernet pads with is no data
		for cut := range frame {
			k.packet(frame[:cut])
		}
		for _, s := range k.streams {
			if got := s.From.String() + " " + s.To.String(); got != want || string(s.Data) != "text" {
				t.Errorf("%s: %q, want %s: text", got, s.Data, want)
			}
		}
		if len(k.streams) != 1 {
			t.Errorf("%d streams, want that of %s", len(k.streams), want)
		}
	}
}
