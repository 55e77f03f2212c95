package lab

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// page is what an app shares with the lab by a mapped file; app/state.go has the same.
type page struct {
	requests atomic.Uint64 // offset 0: requests received
	_        [56]byte
	delay    atomic.Int64 // offset 64: ns to sleep in every request
}

const pageSize = int(unsafe.Sizeof(page{}))

// makePage makes the file of a pod's page, which its app may write.
func (l *Lab) makePage(pod string) (string, error) {
	name := l.path("pages", pod)
	if err := os.WriteFile(name, make([]byte, pageSize), 0o644); err != nil {
		return "", fmt.Errorf("make shared page: %w", err)
	}
	if err := os.Chown(name, appUID, appUID); err != nil {
		return "", fmt.Errorf("make shared page: %w", err)
	}
	return name, nil
}

func (l *Lab) mapPage(pod string) (*page, []byte, error) {
	f, err := os.OpenFile(l.path("pages", pod), os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open shared page: %w", err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map shared page of %s: %w", pod, err)
	}
	return (*page)(unsafe.Pointer(&mem[0])), mem, nil
}

// Requests is the number of requests that the frontend has received: throughput at any moment, without traffic. It
// costs one read of memory. After Down it is an error.
func (l *Lab) Requests() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pageMem == nil {
		p, mem, err := l.mapPage("frontend")
		if err != nil {
			return 0, err
		}
		l.page, l.pageMem = p, mem
	}
	return l.page.requests.Load(), nil
}

func (l *Lab) closePage() error {
	if l.pageMem == nil {
		return nil
	}
	mem := l.pageMem
	l.page, l.pageMem = nil, nil
	return unix.Munmap(mem)
}

// setDelay makes a pod's app wait in every request.
func (l *Lab) setDelay(pod string, d time.Duration) error {
	p, mem, err := l.mapPage(pod)
	if err != nil {
		return err
	}
	p.delay.Store(int64(d))
	return unix.Munmap(mem)
}
