package join

import "github.com/meshwatch/meshwatch/bpf"

// records accounts for the TLS records of one direction of a leg: whether each has its plaintext in some flight. A head that was sent
// unseen would leave HPACK's table with something else than what is thought.
type records struct {
	owed    int64  // bytes of plaintext of the library's latest call that further records have
	added   uint32 // bytes that a record is longer than its plaintext, 0: not known yet
	missing bool   // something was sent of which nothing is known
	seen    bool
	wire    uint32 // sequence after the latest record, if seen
}

// follows notes where a flight ends on the wire. Bytes between it and the one before were of records that no flight has.
func (r *records) follows(f *bpf.Flight) {
	r.missing = r.missing || r.seen && before(r.wire, f.Seq)
	r.seen, r.wire = true, f.End
}

// text takes plaintext: all of a call that wrote, or what a reader took at a time of a flight that it began with.
func (r *records) text(f *bpf.Flight) {
	if f.End == f.Seq { // more of what is read: the records were counted with the first
		r.owed += int64(f.PlainLen)
		return
	}
	r.learn(f)
	r.owed = int64(f.PlainLen) - r.plaintext(f)
	if !isRead(f) && r.owed < -mostPadding {
		r.missing = true // a record that went out with this one has its plaintext nowhere
	}
}

// opaque takes a record of which no plaintext was seen: more of the call before, or something that is missing.
func (r *records) opaque(f *bpf.Flight) {
	r.follows(f)
	if r.owed > 0 {
		r.owed -= r.plaintext(f)
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

// plaintext is how much of it a flight's records have, at least.
func (r *records) plaintext(f *bpf.Flight) int64 {
	n, added := f.End-f.Seq, max(r.added, leastAdded)
	count := (n + recordBytes + added - 1) / (recordBytes + added)
	if isJoined(f) {
		count = uint32(f.HeadTotal)
	}
	return int64(n) - int64(count*added)
}

const (
	recordBytes = 1 << 14 // of plaintext in a record, at most (RFC 8446 §5.1)
	leastAdded  = 5 + 16  // a record's header, and the shortest authentication tag
	mostPadding = 16      // by which records of the same length differ
	smallWrite  = 1024    // libraries that make several records of one write make them larger than this (bpf/c/tie.h)
)
