// Package tlsscan looks which TLS libraries the node's processes have: in their executable, or in what it has mapped.
package tlsscan

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/meshwatch/tlsfind"
)

const (
	// youth is for how many looks the mappings of a new process are read at each: libraries are loaded when it starts.
	youth = 4
	// rotation is how many looks there are between two readings of an old one's.
	rotation = 16
	// searchTime is how long one look may search new files, a first look at a node with hundreds of them takes several.
	searchTime = 200 * time.Millisecond
)

// Binary is a file with a TLS library, or one that may have one.
type Binary struct {
	Path    string // as its processes name it
	Open    string // where it could be opened when it was looked at; see Reopen
	File    File
	Pids    []int // processes that run or have mapped it, ascending
	Library *tlsfind.Library
	Err     error // why nobody knows whether it has one
}

// File identifies a file. Overlay mounts of one image have devices of their own, but the same inode: a probe on it is on all of them.
type File struct {
	Ino   uint64
	Size  int64
	Mtime int64 // ns
}

// Scanner remembers what it has looked at. One goroutine uses it.
type Scanner struct {
	proc  string // /proc
	procs map[int]*process
	files map[File]*found
	built map[build]*found // of files, for their copies in other images
	tick  int
	// Waiting counts what is left for the next look: files that were not searched yet, once for each process that has them.
	Waiting int
}

// build identifies what a file has: a copy of it has other inodes and times.
type build struct {
	id   string
	size int64
}

// process is one that was looked at.
type process struct {
	exe   File
	maps  []mapping
	first int // look
	seen  int
}

// mapping is an executable mapping of a file.
type mapping struct {
	file File
	path string
}

// found is what a search of a file found.
type found struct {
	library *tlsfind.Library
	err     error
	seen    int // look
}

// New makes a Scanner of this node's processes.
func New() *Scanner {
	return &Scanner{proc: "/proc", procs: map[int]*process{}, files: map[File]*found{}, built: map[build]*found{}}
}

// Scan looks at all processes. It costs a stat for each, for new ones reading their mappings, and for a file that is new a search; files
// beyond searchTime wait for the next look. What is not readable is not there.
func (s *Scanner) Scan() ([]Binary, error) {
	s.tick++
	entries, err := os.ReadDir(s.proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	until := time.Now().Add(searchTime)
	s.Waiting = 0
	byFile := map[File]*Binary{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p := s.look(pid)
		if p == nil {
			continue
		}
		for i := range p.maps {
			s.add(byFile, pid, &p.maps[i], until)
		}
	}
	for pid, p := range s.procs {
		if p.seen != s.tick {
			delete(s.procs, pid)
		}
	}
	for f, k := range s.files {
		if k.seen != s.tick {
			delete(s.files, f)
		}
	}
	for b, k := range s.built {
		if k.seen != s.tick {
			delete(s.built, b)
		}
	}
	out := make([]Binary, 0, len(byFile))
	for _, b := range byFile {
		slices.Sort(b.Pids)
		out = append(out, *b)
	}
	slices.SortFunc(out, func(a, b Binary) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
	return out, nil
}

// look returns what a process has mapped, read anew when it is young, runs another executable, or after a while; nil: it is gone, or a
// kernel thread.
func (s *Scanner) look(pid int) *process {
	exe, err := s.stat(s.path(pid, "exe"))
	if err != nil {
		return nil
	}
	p := s.procs[pid]
	if p == nil || p.exe != exe {
		p = &process{exe: exe, first: s.tick}
		s.procs[pid] = p
	}
	p.seen = s.tick
	if s.tick-p.first < youth || (s.tick+pid)%rotation == 0 {
		p.maps = s.mapped(pid, p)
	}
	return p
}

func (s *Scanner) path(pid int, more string) string {
	return s.proc + "/" + strconv.Itoa(pid) + "/" + more
}

func (s *Scanner) stat(path string) (File, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return File{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileOf(&st), nil
}

func fileOf(st *unix.Stat_t) File { return File{st.Ino, st.Size, st.Mtim.Nano()} }

// Reopen opens the file itself. fs.ErrNotExist: its path leads nowhere by now, or to another file, such as a package's next version,
// in which everything is elsewhere.
func (b *Binary) Reopen() (*os.File, error) {
	f, err := os.Open(b.Open)
	if err != nil {
		return nil, fmt.Errorf("open %s of a process: %w", b.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", b.Path, err), f.Close())
	}
	if fileOf(&st) != b.File {
		return nil, errors.Join(fmt.Errorf("%s is another file by now: %w", b.Path, fs.ErrNotExist), f.Close())
	}
	return f, nil
}

// mapped are the files that a process can execute: its executable, and those of executable mappings.
func (s *Scanner) mapped(pid int, p *process) []mapping {
	exe, err := os.Readlink(s.path(pid, "exe"))
	if err != nil {
		return nil
	}
	out := []mapping{{p.exe, exe}}
	maps, err := os.ReadFile(s.path(pid, "maps"))
	if err != nil {
		return out
	}
	last := ""
	for line := range bytes.Lines(maps) {
		path := executable(line)
		if path == "" || path == last || path == exe {
			continue
		}
		last = path
		if f, err := s.stat(s.path(pid, "root"+path)); err == nil && !slices.ContainsFunc(out, func(m mapping) bool { return m.file == f }) {
			out = append(out, mapping{f, path})
		}
	}
	return out
}

// executable is the path of a line of /proc/PID/maps, if it is of a file and may be executed:
// 7f0000000000-7f0000001000 r-xp 00001000 fe:00 1234    /usr/lib/libx.so
func executable(line []byte) string {
	fields := bytes.Fields(line)
	if len(fields) < 6 || len(fields[1]) < 3 || fields[1][2] != 'x' || fields[5][0] != '/' {
		return ""
	}
	path := line[bytes.IndexByte(line, '/'):]
	return string(bytes.TrimSuffix(bytes.TrimSuffix(path, []byte("\n")), []byte(" (deleted)")))
}

// add notes that a process has a file, if that has a TLS library.
func (s *Scanner) add(byFile map[File]*Binary, pid int, m *mapping, until time.Time) {
	open := s.path(pid, "root"+m.path)
	if p := s.procs[pid]; m.file == p.exe {
		open = s.path(pid, "exe")
	}
	k := s.files[m.file]
	if k == nil {
		if time.Now().After(until) {
			s.Waiting++
			return
		}
		k = s.search(open, m.file.Size)
		s.files[m.file] = k
	}
	k.seen = s.tick
	if errors.Is(k.err, tlsfind.ErrNotHere) {
		return
	}
	b := byFile[m.file]
	if b == nil {
		b = &Binary{Path: m.path, Open: open, File: m.file, Library: k.library, Err: k.err}
		byFile[m.file] = b
	}
	b.Pids = append(b.Pids, pid)
}

// search looks for a TLS library in a file, unless it did in a copy.
func (s *Scanner) search(path string, size int64) *found {
	f, err := os.Open(path)
	if err != nil {
		return &found{err: tlsfind.ErrNotHere} // gone meanwhile
	}
	defer f.Close()
	b := build{tlsfind.BuildID(f), size}
	if k := s.built[b]; k != nil {
		return k
	}
	l, err := tlsfind.Find(f)
	k := &found{library: l, err: err}
	if b.id != "" {
		s.built[b] = k
	}
	return k
}
