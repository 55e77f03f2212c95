package netpath

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// subscription is how one namespace says that it changed. Its two sockets pin the namespace, so they are closed as soon
// as nobody else is there.
type subscription struct {
	links int // rtnetlink, bound to the groups of links and addresses; what it says is not read, only that it says
	// rules is asked for the generation number of nftables at every poll. Listening for rule changes instead would make
	// the kernel write a message for every rule of every transaction of kube-proxy.
	rules      int
	generation uint32
}

// subscribe opens both sockets in the namespace.
func subscribe(n *Namespace) (*subscription, error) {
	s := &subscription{links: -1, rules: -1}
	err := n.Do(func() (err error) {
		const flags = unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
		if s.links, err = unix.Socket(unix.AF_NETLINK, flags, unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
		if err := unix.Bind(s.links, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			return fmt.Errorf("subscribe to links: %w", err)
		}
		if s.rules, err = unix.Socket(unix.AF_NETLINK, flags, unix.NETLINK_NETFILTER); err != nil {
			s.rules = -1 // no nfnetlink in this kernel: no rules to follow
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	if _, err := s.rulesChanged(); err != nil {
		return s, nil //nolint:nilerr // the first answer only sets the number; a later one says it again
	}
	return s, nil
}

func (s *subscription) close() error {
	var errs []error
	for _, fd := range []int{s.links, s.rules} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	s.links, s.rules = -1, -1
	return errors.Join(errs...)
}

// drain empties the links socket. An overrun (ENOBUFS) is a change like any other.
func (s *subscription) drain() {
	var buf [1]byte // the rest of a message is dropped
	for {
		_, _, err := unix.Recvfrom(s.links, buf[:], unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// rulesChanged asks for the generation number, which every nftables transaction raises.
func (s *subscription) rulesChanged() (bool, error) {
	if s.rules < 0 {
		return false, nil
	}
	var req [unix.SizeofNlMsghdr + nfgenmsgSize]byte
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], nftMsg|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST)
	if _, err := unix.Write(s.rules, req[:]); err != nil {
		return false, fmt.Errorf("ask for nftables generation: %w", err)
	}
	var buf [256]byte // the answer is 20 bytes of headers and three small attributes
	size, err := unix.Read(s.rules, buf[:])
	if err != nil {
		return false, fmt.Errorf("read nftables generation: %w", err)
	}
	generation, ok := parseGeneration(buf[:size])
	changed := ok && generation != s.generation
	if ok {
		s.generation = generation
	}
	return changed, nil
}

// parseGeneration reads an NFT_MSG_NEWGEN.
func parseGeneration(msg []byte) (uint32, bool) {
	const attrs = unix.SizeofNlMsghdr + nfgenmsgSize
	if len(msg) < attrs || binary.NativeEndian.Uint16(msg[4:]) != nftMsg|unix.NFT_MSG_NEWGEN {
		return 0, false
	}
	return be32(attribute(msg[attrs:], unix.NFTA_GEN_ID))
}
