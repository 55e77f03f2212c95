package join

import "github.com/meshwatch/meshwatch/bpf"

// records accounts for the TLS records of one direction of a leg: whether each has its plaintext in some flight or text. A head that was
// sent unseen would leave HPACK's table with something else than what is thought.
type records struct {
	owed    int64  // bytes of plaintext of the library's latest call that further records have
	added   uint32 // bytes that a record is longer than its plaintext, 0: not known yet
	missing bool   // something was sent of which nothing is known
	seen    bool
	wire    uint32 // sequence after the latest record, if seen

	// The latest flight with plaintext. Where it is longer than that, either more left in it, of which a text is on its way, or something
	// is missing.
	over  bool
	seq   uint32
	plain int64
	count uint32 // records that it has for sure, 0: not known
}

// follows notes where a flight is in the stream. Bytes between it and the one before were of records that no flight has.
func (r *records) follows(f *bpf.Flight) {
	switch {
	case !r.seen:
	case before(r.wire, f.Seq): // more of the call before, or something that is missing
		r.missing = r.missing || r.owed <= 0
		r.owed -= r.least(f.Seq-r.wire, 0)
		r.missing = r.missing || r.owed < -mostPadding
	case before(f.Seq, r.wire) && before(r.seq, f.Seq): // a text of what left in the flight before
		r.owed, r.over = r.plain-r.least(f.Seq-r.seq, r.count), false
	}
	r.missing = r.missing || r.over
	r.over = false
	r.seen, r.wire = true, f.End
}

// text takes plaintext: all of a call that wrote, or what a reader took at a time of a flight that it began with.
func (r *records) text(f *bpf.Flight) {
	if f.End == f.Seq { // more of what is read: the records were counted with the first
		r.owed += int64(f.PlainLen)
		return
	}
	r.learn(f)
	r.seq, r.plain, r.count = f.Seq, int64(f.PlainLen), 0
	if isJoined(f) {
		r.count = uint32(f.HeadTotal)
	}
	r.owed = r.plain - r.least(f.End-f.Seq, r.count)
	r.over = !isRead(f) && r.owed < -mostPadding
}

// opaque takes a record of which no plaintext was seen: more of the call before, or something that is missing.
func (r *records) opaque(f *bpf.Flight) {
	if r.seen && !before(r.wire, f.End) { // it came after its text
		return
	}
	r.follows(f)
	if r.owed > 0 {
		r.owed -= r.least(f.End-f.Seq, 0)
		return
	}
	r.missing = true // if anything follows: the last record of a connection is an alert
}

// learn notes how much longer than its plaintext a record is, where a flight is one record for sure.
func (r *records) learn(f *bpf.Flight) {
	if n := f.End - f.Seq - f.PlainLen; f.PlainLen <= smallWrite && !isJoined(f) && n >= leastAdded && (r.added == 0 || n < r.added) {
		r.added = n
	}
}

// least is how much plaintext n bytes of records have at least: so many records, 0: as many as they must be.
func (r *records) least(n, count uint32) int64 {
	added := max(r.added, leastAdded)
	if count == 0 {
		count = (n + recordBytes + added - 1) / (recordBytes + added)
	}
	return int64(n) - int64(count*added)
}

const (
	recordBytes = 1 << 14 // of plaintext in a record, at most (RFC 8446 §5.1)
	leastAdded  = 5 + 16  // a record's header, and the shortest authentication tag
	mostPadding = 16      // by which records of the same length differ
	smallWrite  = 1024    // libraries that make several records of one write make them larger than this (bpf/c/tie.h)
)
