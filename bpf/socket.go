package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Sockets holds the programs on both ends of a flight (socket.bpf.c), for all namespaces at once.
type Sockets struct {
	objs  socketPrograms
	links []link.Link
}

func loadSocketProgs(l loader) (*Sockets, error) {
	s := &Sockets{}
	spec, err := loadSocket()
	return s, l.load("socket", spec, err, &s.objs)
}

// Attach starts the programs.
func (s *Sockets) Attach() (err error) {
	s.links, err = attachTracing(s.objs.MwState, s.objs.MwRecv, s.objs.MwArrive, s.objs.MwSend)
	return err
}

// Close detaches and frees the programs.
func (s *Sockets) Close() error {
	if s == nil {
		return nil
	}
	return firstError(closeAll(s.links), s.objs.Close())
}

// Trouble holds the programs on retransmissions, drops and resets (trouble.bpf.c).
type Trouble struct {
	objs  troublePrograms
	links []link.Link
}

func loadTroubleProgs(l loader) (*Trouble, error) {
	t := &Trouble{}
	spec, err := loadTrouble()
	return t, l.load("trouble", spec, err, &t.objs)
}

// Attach starts the programs.
func (t *Trouble) Attach() (err error) {
	t.links, err = attachTracing(t.objs.MwRetransmit, t.objs.MwDrop, t.objs.MwRstOut, t.objs.MwRstIn)
	return err
}

// Close detaches and frees the programs.
func (t *Trouble) Close() error {
	if t == nil {
		return nil
	}
	return firstError(closeAll(t.links), t.objs.Close())
}

func attachTracing(progs ...*ebpf.Program) ([]link.Link, error) {
	var links []link.Link
	for _, p := range progs {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return nil, firstError(fmt.Errorf("attach %s: %w", p, explain(err)), closeAll(links))
		}
		links = append(links, l)
	}
	return links, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
