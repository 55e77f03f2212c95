// Package wire records what passes a link, as the node sees it, and reads TLS out of it.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/nets"
)

// Capture records the TCP streams that pass a link, such as the node's end of a pod's: what is on the wire, outside of the pod.
type Capture struct {
	fd   int
	stop int // an eventfd that ends the reader
	done sync.WaitGroup

	streams map[[2]netip.AddrPort]*Stream // the reader's until it has ended
	err     error
}

// Stream is one direction of a connection.
type Stream struct {
	From, To netip.AddrPort
	Data     []byte // in order, without what was sent again; of a connection that began before, what came since
	Begun    bool   // its SYN was seen
	Opener   bool   // and it was the connection's first
	next     uint32 // sequence number
}

// Start begins to record what passes a link of a network namespace.
func Start(ns nets.Namespace, index int) (*Capture, error) {
	k := &Capture{streams: map[[2]netip.AddrPort]*Stream{}}
	err := ns.Do(func() (err error) { k.fd, err = packetSocket(index); return err })
	if err != nil {
		return nil, fmt.Errorf("capture on link %d: %w", index, err)
	}
	if k.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("capture on link %d: %w", index, err), unix.Close(k.fd))
	}
	k.done.Go(k.read)
	return k, nil
}

// packetSocket sees all that passes a link, both ways.
func packetSocket(index int) (int, error) {
	const buffer = 32 << 20 // bytes; what the reader may be late
	protocol := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // no protocol yet: it would see all links' until it is bound
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// Stop ends recording and returns the streams. A packet that was missed is an error.
func (k *Capture) Stop() ([]*Stream, error) {
	_, err := unix.Write(k.stop, binary.NativeEndian.AppendUint64(nil, 1))
	k.done.Wait()
	stats, e := unix.GetsockoptTpacketStats(k.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err = errors.Join(k.err, err, e); err == nil && stats.Drops > 0 {
		err = fmt.Errorf("capture: %d packets were missed", stats.Drops)
	}
	var all []*Stream
	for _, s := range k.streams {
		all = append(all, s)
	}
	return all, errors.Join(err, unix.Close(k.fd), unix.Close(k.stop))
}

func (k *Capture) read() {
	packet := make([]byte, 1<<17)                                                                          // offloads join segments to 64 KiB
	fds := []unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}, {Fd: int32(k.stop), Events: unix.POLLIN}} //nolint:gosec // descriptors
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			k.err = fmt.Errorf("capture: %w", err)
			return
		}
		for {
			n, _, err := unix.Recvfrom(k.fd, packet, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				k.err = fmt.Errorf("capture: %w", err)
				return
			}
			k.packet(packet[:n])
		}
		if fds[1].Revents != 0 {
			return
		}
	}
}

// packet adds one Ethernet frame, if it is TCP.
func (k *Capture) packet(frame []byte) {
	const leastTCP = 20
	from, to, tcp, ok := addresses(frame)
	if !ok || len(tcp) < leastTCP {
		return
	}
	offset := int(tcp[12]>>4) * 4
	if offset > len(tcp) {
		return
	}
	ends := [2]netip.AddrPort{netip.AddrPortFrom(from, binary.BigEndian.Uint16(tcp)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(tcp[2:]))}
	s := k.streams[ends]
	if s == nil {
		s = &Stream{From: ends[0], To: ends[1]}
		k.streams[ends] = s
	}
	const syn, ack = 0x02, 0x10
	s.Opener = s.Opener || tcp[13]&(syn|ack) == syn
	s.add(binary.BigEndian.Uint32(tcp[4:]), tcp[13]&syn != 0, tcp[offset:])
}

// addresses reads an Ethernet frame's IP header, and returns what follows it. False: it is not TCP, or has extension headers.
func addresses(frame []byte) (from, to netip.Addr, tcp []byte, ok bool) {
	const ethernet, v4, v6 = 14, 20, 40 // bytes of header
	if len(frame) < ethernet+v4 {
		return from, to, nil, false
	}
	ip := frame[ethernet:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		head, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if ip[9] == unix.IPPROTO_TCP && head <= total && total <= len(ip) {
			return netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20])), ip[head:total], true
		}
	case unix.ETH_P_IPV6:
		if len(ip) < v6 {
			break
		}
		if total := v6 + int(binary.BigEndian.Uint16(ip[4:])); ip[6] == unix.IPPROTO_TCP && total <= len(ip) {
			return netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])), ip[v6:total], true
		}
	}
	return from, to, nil, false
}

// add adds a segment, or the part of it that is new.
func (s *Stream) add(seq uint32, syn bool, data []byte) {
	switch {
	case syn:
		s.Begun, s.next = true, seq+1
		return
	case len(data) == 0:
		return
	case !s.Begun && s.Data == nil:
		s.next = seq
	}
	known := int32(s.next - seq)   //nolint:gosec // sequence numbers wrap around
	if known >= int32(len(data)) { //nolint:gosec // a segment
		return
	}
	s.Data = append(s.Data, data[max(0, known):]...)
	s.next = seq + uint32(len(data)) //nolint:gosec // a segment
}

// Conversation is both directions of a connection, from its beginning.
type Conversation struct{ Client, Server *Stream }

// Conversations puts the streams of connections together that were opened to an address.
func Conversations(streams []*Stream, to netip.Addr) []Conversation {
	var found []Conversation
	for _, s := range streams {
		if !s.Opener || s.To.Addr() != to || len(s.Data) == 0 {
			continue
		}
		for _, back := range streams {
			if back.From == s.To && back.To == s.From && len(back.Data) > 0 {
				found = append(found, Conversation{s, back})
			}
		}
	}
	return found
}
