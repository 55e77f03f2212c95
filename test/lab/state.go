package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/state"
	"github.com/meshwatch/meshwatch/test/tree"
)

// stateDir holds one directory for each lab:
//
//	lab.json             the Lab
//	procs/NAME.PID.json  a Process each
//	faults/KIND.json     a Fault each that is on
//	logs/                what the processes print, and the access logs
//	conf/                the proxies' configuration
//	pages/POD            page shared with the pod's app
const stateDir = "/run/meshwatch-lab"

const tail = 400 // bytes of each log that an error shows

// labName is what names that carry an id look like.
var labName = regexp.MustCompile(`^` + netnsPrefix + `([0-9a-f]{4})-`)

// newState takes an id that no lab has, and makes its directory.
func newState() (id, dir string, err error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return "", "", fmt.Errorf("make state directory: %w", err)
	}
	for range 100 {
		var b [2]byte
		_, _ = rand.Read(b[:]) // never fails
		id = hex.EncodeToString(b[:])
		dir = filepath.Join(stateDir, id)
		if left, err := netnsOf(id); err != nil || len(left) > 0 {
			continue
		}
		if err = os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
			continue
		}
		for _, sub := range []string{"procs", "faults", "logs", "conf", "pages"} {
			err = errors.Join(err, os.Mkdir(filepath.Join(dir, sub), 0o755))
		}
		if err != nil {
			return "", "", fmt.Errorf("make state directory: %w", err)
		}
		return id, dir, nil
	}
	return "", "", errors.New("make state directory: no free id in 100 tries")
}

// path names a file under the lab's state directory.
func (l *Lab) path(elem ...string) string { return filepath.Join(append([]string{l.dir}, elem...)...) }

// LogDir is where the processes' output and the access logs are, until Down.
func (l *Lab) LogDir() string { return l.path("logs") }

func (l *Lab) save() error { return state.Write(l.path("lab.json"), l) }

func (l *Lab) recordPath(p Process) string {
	return l.path("procs", fmt.Sprintf("%s.%d.json", p.Name, p.PID))
}

func (l *Lab) record(p Process) error { return state.Write(l.recordPath(p), p) }

// spawner is the lab's, started with the first process.
func (l *Lab) spawner() *spawner {
	l.spawnOnce.Do(func() { l.spawn = newSpawner() })
	return l.spawn
}

// readProcesses reads a lab's records.
func readProcesses(dir string) ([]Process, error) {
	files, _ := filepath.Glob(filepath.Join(dir, "procs", "*.json")) //nolint:errcheck // the pattern is right
	var procs []Process
	for _, f := range files {
		var p Process
		if err := state.Read(f, &p); errors.Is(err, os.ErrNotExist) {
			continue // ended meanwhile
		} else if err != nil {
			return nil, err
		}
		procs = append(procs, p)
	}
	return procs, nil
}

// Processes are those that the lab has started and not stopped.
func (l *Lab) Processes() ([]Process, error) { return readProcesses(l.dir) }

// IDs lists the labs of which anything is left on this machine.
func IDs() ([]string, error) {
	var ids []string
	entries, err := os.ReadDir(stateDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	named, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	for _, e := range named {
		if m := labName.FindStringSubmatch(e.Name()); m != nil {
			ids = append(ids, m[1])
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Open returns a lab that another process built. An empty id means the only one there is.
func Open(id string) (*Lab, error) {
	if id == "" {
		ids, err := IDs()
		if err != nil {
			return nil, err
		}
		if len(ids) != 1 {
			return nil, fmt.Errorf("open lab: there are %d labs %q, say which", len(ids), ids)
		}
		id = ids[0]
	}
	root, err := tree.Root()
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: filepath.Join(stateDir, id), root: root}
	if err := state.Read(l.path("lab.json"), l); err != nil {
		return nil, fmt.Errorf("open lab %s: %w", id, err)
	}
	return l, nil
}

// Down ends the lab's processes and deletes all that Up and its other methods made. It may be called again.
func (l *Lab) Down() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := Clean(l.ID)
	l.children.Wait()
	l.spawnOnce.Do(func() {})
	if l.spawn != nil {
		l.spawn.close()
		l.spawn = nil
	}
	return errors.Join(err, l.closePage())
}

// Clean removes all that a lab of this id left, whoever built it and however far that got. It is no error if that is nothing.
func Clean(id string) error {
	if !regexp.MustCompile(`^[0-9a-f]{4}$`).MatchString(id) {
		return fmt.Errorf("clean lab %q: an id has four hexadecimal digits", id)
	}
	dir := filepath.Join(stateDir, id)
	procs, err := readProcesses(dir)
	err = errors.Join(err, liftQuotas(id), terminate(procs), terminate(tagged(id)))
	if err != nil {
		return fmt.Errorf("clean lab %s: %w", id, err)
	}
	err = removeCgroups(id)
	names, listErr := netnsOf(id)
	err = errors.Join(err, listErr)
	for _, name := range names {
		err = errors.Join(err, deleteNetns(name))
	}
	if err != nil {
		return fmt.Errorf("clean lab %s: %w", id, err) // the state directory stays, so that it can be tried again
	}
	if mount := filepath.Join(dir, "cgroup"); exists(mount) {
		_ = unix.Unmount(mount, unix.MNT_DETACH) // not a mount when mounting had failed
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clean lab %s: %w", id, err)
	}
	return nil
}

// Stale says whether the lab's builder is dead without having taken it down. Detached labs are never stale.
func Stale(id string) bool {
	dir := filepath.Join(stateDir, id)
	var l Lab
	if err := state.Read(filepath.Join(dir, "lab.json"), &l); err != nil {
		const settled = time.Minute // one that is being built has its lab.json long before
		info, err := os.Stat(dir)
		return err != nil || time.Since(info.ModTime()) > settled
	}
	return !l.Options.Detached && !l.Owner.Running()
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
