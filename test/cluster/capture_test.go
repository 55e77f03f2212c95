package cluster

import (
	"errors"
	"net"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/nets"
)

// TestPacketSocket: no packet of another link is seen, also none that comes while the socket is being made.
func TestPacketSocket(t *testing.T) {
	want(t)
	err := onOwnThread(func() error {
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
	})
	if err != nil {
		t.Fatal(err)
	}
}
