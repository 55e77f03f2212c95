package join

import (
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
	// wordAge is for how long: a group may wait for the rest of a longer request.
	wordAge = 30 * time.Second
	// maxSpeakers bounds the processes that are waited for, and silence is when one is waited for no more.
	maxSpeakers = 1 << 10
	silence     = time.Minute
)

// words are what was said lately.
type words struct {
	in       map[wordPlace][]*word // by the process and where its caller is, in the order of their starts
	out      map[wordPlace][]*word // by the process and the connection on which it asked
	all      []*word               // as they came
	speakers map[uint32]uint64     // process → when it last said something
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

func newWords() words {
	return words{in: map[wordPlace][]*word{}, out: map[wordPlace][]*word{}, speakers: map[uint32]uint64{}}
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

func insertWord(m map[wordPlace][]*word, at wordPlace, w *word) {
	list := m[at]
	if len(list) == maxWordsPlace {
		list[0] = nil
		list = list[1:]
	}
	m[at] = slices.Insert(list, sort.Search(len(list), func(i int) bool { return list[i].Start > w.Start }), w)
}

func (ws *words) forget(w *word) {
	for m, at := range map[*map[wordPlace][]*word]wordPlace{&ws.in: w.inPlace(), &ws.out: w.outPlace()} {
		list := (*m)[at]
		i := slices.Index(list, w)
		switch {
		case i == 0:
			list[0] = nil
			list = list[1:]
		case i > 0:
			list = slices.Delete(list, i, i+1)
		}
		if (*m)[at] = list; len(list) == 0 {
			delete(*m, at)
		}
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
