package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/nets"
)

// Capture records the TCP streams that pass a pod's link, as the node sees them: what is on the wire, outside of the pod.
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
	next     uint32 // sequence number
}

// Capture begins to record.
func (c *Cluster) Capture(p Pod) (*Capture, error) {
	_, index, err := p.Link()
	if err != nil {
		return nil, err
	}
	node, err := nodeNumber(p.Node)
	if err != nil {
		return nil, err
	}
	pid, err := keeper(node)
	if err != nil {
		return nil, err
	}
	k := &Capture{streams: map[[2]netip.AddrPort]*Stream{}}
	if err := nets.OfProcess(pid).Do(func() error { k.fd, err = packetSocket(index); return err }); err != nil {
		return nil, fmt.Errorf("capture on pod %s: %w", p.Name, err)
	}
	if k.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("capture on pod %s: %w", p.Name, err), unix.Close(k.fd))
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

// packet adds one Ethernet frame, if it is TCP over IPv4.
func (k *Capture) packet(frame []byte) {
	const ethernet, leastIP, leastTCP = 14, 20, 20
	if len(frame) < ethernet+leastIP+leastTCP || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return
	}
	ip := frame[ethernet:]
	head, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[9] != unix.IPPROTO_TCP || total > len(ip) || total < head+leastTCP {
		return
	}
	tcp := ip[head:total]
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), binary.BigEndian.Uint16(tcp))
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(tcp[2:]))
	offset := int(tcp[12]>>4) * 4
	if offset > len(tcp) {
		return
	}
	s := k.streams[[2]netip.AddrPort{from, to}]
	if s == nil {
		s = &Stream{From: from, To: to}
		k.streams[[2]netip.AddrPort{from, to}] = s
	}
	const syn = 0x02
	s.add(binary.BigEndian.Uint32(tcp[4:]), tcp[13]&syn != 0, tcp[offset:])
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
