package topology

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settle = 100 * time.Millisecond // one change is several events: writers truncate, write, rename
	poll   = 30 * time.Second       // for what sends no event: a link to elsewhere, a network file system
)

// Watch loads the file, calls changed, and does so again whenever its content changes, until ctx ends. A file that cannot
// be used gives the error and the last good Store, nil if there was none. What the first good file says was always so; a
// later one holds from when it is read, by clock. changed is never called twice at a time. Watch watches the directory, as
// editors and Kubernetes replace files rather than write them; it fails only where that cannot be watched.
func Watch(ctx context.Context, path string, b *Builder, clock func() uint64, changed func(*Store, error)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch topology %s: %w", path, err)
	}
	defer w.Close() //nolint:errcheck // read only
	dir := filepath.Dir(path)
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch directory %s of the topology: %w", dir, err)
	}
	f := watched{path: path, builder: b, clock: clock, changed: changed}
	f.reload()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var due <-chan time.Time // nil: nothing to reload
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			if due == nil {
				due = time.After(settle)
			}
		case <-w.Errors: // events were lost
			due = time.After(settle)
		case <-due:
			due = nil
			f.reload()
		case <-tick.C:
			_ = w.Add(dir) // if it was replaced; if it is gone, reload says so
			f.reload()
		}
	}
}

// watched is a file as last seen.
type watched struct {
	path    string
	builder *Builder
	clock   func() uint64
	changed func(*Store, error)
	content []byte
	readErr string
	read    bool // content and readErr are of a read
	good    *Store
	told    *content // that the builder has of the file
}

// reload tells changed about the file, if it is not as it was.
func (f *watched) reload() {
	content, err := os.ReadFile(f.path)
	message := ""
	if err != nil {
		message = err.Error()
	}
	if f.read && bytes.Equal(content, f.content) && message == f.readErr {
		return
	}
	f.read, f.content, f.readErr = true, content, message
	if err != nil {
		f.changed(f.good, fmt.Errorf("read topology: %w", err))
		return
	}
	now, err := parse(content)
	if err != nil {
		f.changed(f.good, fmt.Errorf("parse topology %s: %w", f.path, err))
		return
	}
	f.take(now)
	f.changed(f.good, nil)
}

// take makes the file's content the builder's. An address that changes hands belongs to nobody for a while before: whoever wrote
// the file may have been late.
func (f *watched) take(c *content) {
	now := f.clock()
	m := Moment{At: now, Since: now - min(now, Lateness)}
	if f.good == nil {
		m = Moment{}
		f.told = &content{}
	}
	for name := range f.told.entries {
		if _, stays := c.entries[name]; !stays {
			f.builder.Remove(name, m)
		}
	}
	for name := range f.told.services {
		if _, stays := c.services[name]; !stays {
			f.builder.RemoveService(name)
		}
	}
	for ref := range f.told.resources {
		if _, stays := c.resources[ref]; !stays {
			f.builder.RemoveResource(ref)
		}
	}
	c.tell(f.builder, m)
	f.told, f.good = c, f.builder.Store(now)
}
