package netpath

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for many descriptors on one thread: all namespaces' sockets, the mount tables, and a call to stop. Go's own
// poller cannot wait for mounts (EPOLLPRI).
type poller struct {
	epoll, stop int
	// mounts are mount tables, not as os.File: Go would poll these too, and a poll eats the event.
	mounts []int
	events [64]unix.EpollEvent
}

func newPoller(vs []view) (*poller, error) {
	p := &poller{epoll: -1, stop: -1}
	err := p.open(vs)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *poller) open(vs []view) (err error) {
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	if p.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	if err := p.add(p.stop, unix.EPOLLIN); err != nil {
		return err
	}
	for i, v := range vs {
		fd, err := unix.Open(v.mountinfo, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			if i > 0 {
				continue
			}
			return fmt.Errorf("open mounts: %w", err)
		}
		p.mounts = append(p.mounts, fd)
		if err := p.add(fd, unix.EPOLLPRI); err != nil {
			return err
		}
	}
	return nil
}

func (p *poller) add(fd int, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(fd)} //nolint:gosec // descriptors are small
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("wait for descriptor: %w", err)
	}
	return nil
}

// isMounts says whether the descriptor is a mount table: its event says that mounts changed.
func (p *poller) isMounts(fd int) bool { return slices.Contains(p.mounts, fd) }

// wait returns the descriptors that have something to say, none when the time is over. The result is valid until the next call.
func (p *poller) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	ms := int((timeout + time.Millisecond - 1) / time.Millisecond)
	n, err := unix.EpollWait(p.epoll, p.events[:], max(ms, 0))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("wait for changes: %w", err)
	}
	return p.events[:max(n, 0)], nil
}

// wake makes wait return the stop descriptor, now and for good. It may be called from any goroutine, before close.
func (p *poller) wake() error {
	_, err := unix.Write(p.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

func (p *poller) close() error {
	var errs []error
	for _, fd := range append(p.mounts, p.epoll, p.stop) {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
