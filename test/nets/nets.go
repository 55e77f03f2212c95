// Package nets works in network namespaces that a lab made: calls there, and links.
package nets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace, by what leads to it.
type Namespace struct {
	what string // as errors call it
	open func() (netns.NsHandle, error)
}

// Named is a namespace that iproute2 made.
func Named(name string) Namespace {
	return Namespace{"network namespace " + name, func() (netns.NsHandle, error) { return netns.GetFromName(name) }}
}

// OfProcess is the namespace that a process is in.
func OfProcess(pid int) Namespace {
	return Namespace{fmt.Sprintf("network namespace of process %d", pid), func() (netns.NsHandle, error) { return netns.GetFromPid(pid) }}
}

// Do calls fn on a thread that is in the namespace. The thread returns to its own namespace, or ends.
func (n Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // unlocked only when the thread is back where it was; else it ends with this goroutine
		err, back := n.Switch(fn)
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Switch calls fn in the namespace on this thread, which the caller has locked, and says whether the thread is back in its own.
func (n Namespace) Switch(fn func() error) (err error, back bool) { //nolint:revive // the error is fn's
	own, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err), true
	}
	defer own.Close()
	target, err := n.open()
	if err != nil {
		return fmt.Errorf("open %s: %w", n.what, err), true
	}
	defer target.Close()
	if err := netns.Set(target); err != nil {
		return fmt.Errorf("enter %s: %w", n.what, err), true
	}
	err = fn()
	if e := netns.Set(own); e != nil {
		return errors.Join(err, fmt.Errorf("leave %s: %w", n.what, e)), false
	}
	return err, true
}

// Netlink calls fn with the namespace's netlink.
func (n Namespace) Netlink(fn func(*netlink.Handle) error) error {
	ns, err := n.open()
	if err != nil {
		return fmt.Errorf("open %s: %w", n.what, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", n.what, err)
	}
	defer h.Close()
	if err := fn(h); err != nil {
		return fmt.Errorf("set up %s: %w", n.what, err)
	}
	return nil
}

// Up sets a link up.
func Up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// AddAddress adds an address without duplicate detection, which would keep IPv6 waiting for a second.
func AddAddress(h *netlink.Handle, link string, addr netip.Prefix) error {
	dev, err := h.LinkByName(link)
	if err == nil {
		a := &netlink.Addr{IPNet: IPNet(addr)}
		if addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		err = h.AddrAdd(dev, a)
	}
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", addr, link, err)
	}
	return nil
}

// IPNet is a prefix as netlink wants it.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
