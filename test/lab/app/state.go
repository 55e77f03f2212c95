package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// page is one page of memory that the app shares with the lab through a file. Numbers are of the machine's byte order
// (little endian on every machine that the lab runs on). The lab reads requests and writes delay; see ../page.go.
type page struct {
	requests atomic.Uint64 // offset 0: requests received
	_        [56]byte      // a cache line each: the lab's polling does not slow the app
	delay    atomic.Int64  // offset 64: ns to sleep in every request
}

// openPage maps the file, which the lab has made. With an empty name the page is private.
func openPage(name string) (*page, error) {
	if name == "" {
		return new(page), nil
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open shared page: %w", err)
	}
	defer f.Close()
	size := int(unsafe.Sizeof(page{}))
	mem, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared page %s: %w", name, err)
	}
	return (*page)(unsafe.Pointer(&mem[0])), nil
}

func (p *page) sleep() {
	if d := p.delay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
}
