package join

import (
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

const (
	// maxWords bounds what was said and is remembered, at about 400 B each.
	maxWords = 1 << 15
	// maxWordsPlace is how many of them about one connection: 2 s of the busiest.
	maxWordsPlace = 1 << 12
	// mostLate is how long after a proxy says so what it did is looked for: it may have to wait for a CPU.
	mostLate = time.Second
	// wordAge is for how long: a group may wait for the rest of a longer request.
	wordAge = 30 * time.Second
	// maxSpeakers bounds the processes that are waited for, and silence is when one is waited for no more.
	maxSpeakers = 1 << 10
	silence     = time.Minute
)

// words are what was said lately.
type words struct {
	in       map[wordPlace]*wordList // by the process and where its caller is, in the order of their starts
	out      map[wordPlace]*wordList // by the process and the connection on which it asked
	asked    map[wordPlace]*heeded   // exchanges, as in has what is said of them
	asks     map[wordPlace]*heeded   // and as out has it
	all      []*word                 // as they came
	speakers map[uint32]uint64       // process → when it last said something
}

// wordPlace is a connection of a process; of one on which it was asked, remote alone: its own end may be said as what its caller meant.
type wordPlace struct {
	pid uint32
	journey.Connection
}

// word is one thing that was said.
type word struct {
	journey.Said
	id    head.ID
	hasID bool
	came  uint64
	used  bool // a join was made of it
}

// heeded is what is over and not given out of one connection of a process.
type heeded struct {
	list []*Exchange // in the order of reading where the process was asked, of sending where it asked
	of   map[wordPlace]*heeded
	at   wordPlace
}

func (h *heeded) all() []*Exchange {
	if h == nil {
		return nil
	}
	return h.list
}

// wordList is what was said about one connection, in the order of starts.
type wordList struct {
	list    []*word
	longest time.Duration // that one of them took
}

// about are the latest of those that may be about something that was sent or answered at a time, latest first. At most maxWordsLooked.
func (l *wordList) about(ns uint64) iter.Seq[*word] {
	return func(yield func(*word) bool) {
		if l == nil {
			return
		}
		from := sort.Search(len(l.list), func(i int) bool { return l.list[i].Start > ns+uint64(journey.SureStart) })
		for _, w := range slices.Backward(l.list[max(0, from-maxWordsLooked):from]) {
			if w.Latest(l.longest+mostLate) < ns || !yield(w) {
				return
			}
		}
	}
}

func newWords() words {
	return words{in: map[wordPlace]*wordList{}, out: map[wordPlace]*wordList{}, asked: map[wordPlace]*heeded{}, asks: map[wordPlace]*heeded{}, speakers: map[uint32]uint64{}}
}

func (w *word) inPlace() wordPlace {
	return wordPlace{uint32(w.By.Pid), journey.Connection{Remote: w.Downstream.Remote}} //nolint:gosec // a process id
}

func (w *word) outPlace() wordPlace {
	return wordPlace{uint32(w.By.Pid), w.Upstream} //nolint:gosec // a process id
}

// Say takes what a proxy said. Who it is must be known by its process; else it is counted and left out. It is copied.
func (j *Joiner) Say(s *journey.Said) {
	pid := uint32(s.By.Pid) //nolint:gosec // a process id
	_, known := j.words.speakers[pid]
	switch {
	case j.cfg.Hear == 0:
		return
	case s.By.Pid <= 0 || !known && len(j.words.speakers) >= maxSpeakers:
		j.lost.speaker.Add(1)
		return
	}
	j.words.speakers[pid] = j.now
	w := &word{Said: *s, came: j.now}
	w.id, w.hasID = head.ParseID([]byte(s.RequestID))
	if len(j.words.all) >= maxWords {
		j.words.forget(j.words.all[0])
		j.words.all = j.words.all[1:]
	}
	j.words.all = append(j.words.all, w)
	insertWord(j.words.in, w.inPlace(), w)
	if w.Upstream.IsValid() {
		insertWord(j.words.out, w.outPlace(), w)
	}
}

func insertWord(m map[wordPlace]*wordList, at wordPlace, w *word) {
	l := m[at]
	if l == nil {
		l = &wordList{}
		m[at] = l
	}
	if len(l.list) == maxWordsPlace {
		l.list[0] = nil
		l.list = l.list[1:]
	}
	l.list = slices.Insert(l.list, sort.Search(len(l.list), func(i int) bool { return l.list[i].Start > w.Start }), w)
	l.longest = max(l.longest, w.Duration)
}

func (ws *words) forget(w *word) {
	forgetWord(ws.in, w.inPlace(), w)
	forgetWord(ws.out, w.outPlace(), w)
}

func forgetWord(m map[wordPlace]*wordList, at wordPlace, w *word) {
	l := m[at]
	if l == nil {
		return
	}
	switch i := slices.Index(l.list, w); {
	case i == 0:
		l.list[0] = nil
		l.list = l.list[1:]
	case i > 0:
		l.list = slices.Delete(l.list, i, i+1)
	}
	if len(l.list) == 0 {
		delete(m, at)
	}
}

// forgetWords forgets what is too old.
func (j *Joiner) forgetWords() {
	n := 0
	for ; n < len(j.words.all) && j.now-j.words.all[n].came > uint64(wordAge); n++ {
		j.words.forget(j.words.all[n])
	}
	clear(j.words.all[:n])
	j.words.all = j.words.all[n:]
	for pid, at := range j.words.speakers {
		if j.now-at > uint64(silence) {
			delete(j.words.speakers, pid)
		}
	}
}
