package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// page is what the traffic program shares with the bench; traffic/main.go has the same.
type page struct {
	served    atomic.Uint64
	_         [56]byte
	failed    atomic.Uint64
	_         [56]byte
	connected atomic.Uint64
}

type mapped struct {
	*page
	file string
	mem  []byte
}

func newPage(dir, name string) (*mapped, error) {
	m := &mapped{file: filepath.Join(dir, name+".page")}
	size := int(unsafe.Sizeof(page{}))
	if err := os.WriteFile(m.file, make([]byte, size), 0o600); err != nil {
		return nil, fmt.Errorf("make shared page: %w", err)
	}
	f, err := os.OpenFile(m.file, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("make shared page: %w", err)
	}
	defer f.Close() //nolint:errcheck // the mapping stays
	if m.mem, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map shared page: %w", err)
	}
	m.page = (*page)(unsafe.Pointer(&m.mem[0]))
	return m, nil
}

func (m *mapped) close() error { return unix.Munmap(m.mem) }
