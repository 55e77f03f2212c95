package meshwatch

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// journeyOf has an exchange for each id; the method is its name.
func journeyOf(name string, trace byte, ids ...string) *journey.Journey {
	j := &journey.Journey{TraceID: [16]byte{15: trace}, RequestID: ids[0]}
	for _, id := range ids {
		j.Exchanges = append(j.Exchanges, &journey.Exchange{Method: name, RequestID: id})
	}
	return j
}

func uuid(n int) string { return fmt.Sprintf("5a0c8b1e-33a4-4c0e-9d6e-%012d", n) }

func found(r *recent, id string) string {
	if j := r.find(id); j != nil {
		return j.Exchanges[0].Method
	}
	return ""
}

func TestRecentFinds(t *testing.T) {
	r := newRecent(10)
	r.add(journeyOf("a", 1, uuid(1), "order-17"))
	r.add(journeyOf("b", 2, uuid(2), ""))
	id, _ := head.ParseID([]byte(uuid(3)))
	asTrace := journeyOf("c", 0, uuid(3))
	asTrace.TraceID = id
	r.add(asTrace)
	for id, want := range map[string]string{
		uuid(1): "a", "order-17": "a", "00000000000000000000000000000001": "a", uuid(2): "b",
		"5A0C8B1E-33A4-9C0E-9D6E-000000000002": "b", // in capitals, with Envoy's digit
		"5a0c8b1e33a44c0e9d6e000000000002":     "b",
		"00000000-0000-0000-0000-000000000002": "b",
		fmt.Sprintf("%x", id[:]):               "c",
		uuid(9):                                "", "": "", "order": "", "zz": "", "00000000000000000000000000000000": "", "0000000000000000000000000000000g": "",
	} {
		if got := found(r, id); got != want {
			t.Errorf("%q finds %q, want %q", id, got, want)
		}
	}
}

// A request's id may come in several trees: a part of it that was not joined, a retry. The largest is shown, of equals the latest.
func TestRecentOfSeveral(t *testing.T) {
	r := newRecent(3)
	r.add(journeyOf("whole", 1, uuid(1), uuid(1), uuid(1)))
	r.add(journeyOf("part", 1, uuid(1)))
	if got := found(r, uuid(1)); got != "whole" {
		t.Errorf("found %q", got)
	}
	r.add(journeyOf("again", 1, uuid(1), uuid(1), uuid(1)))
	if got := found(r, uuid(1)); got != "again" {
		t.Errorf("found %q", got)
	}
	r.add(journeyOf("other", 2, uuid(2))) // whole goes: what is found under its id is not its own any more
	if got := found(r, uuid(1)); got != "again" {
		t.Errorf("found %q after another one went", got)
	}
}

func TestRecentForgets(t *testing.T) {
	r := newRecent(3)
	for i := 1; i <= 5; i++ {
		r.add(journeyOf(fmt.Sprint(i), byte(i), uuid(i), fmt.Sprintf("order-%d", i)))
	}
	var names []string
	for _, j := range r.latest(100) {
		names = append(names, j.Exchanges[0].Method)
	}
	if diff := cmp.Diff([]string{"5", "4", "3"}, names); diff != "" {
		t.Errorf("latest (-want +got):\n%s", diff)
	}
	if n := len(r.latest(2)); n != 2 {
		t.Errorf("%d of the latest 2", n)
	}
	for i := 1; i <= 2; i++ {
		for _, id := range []string{uuid(i), fmt.Sprintf("order-%d", i), fmt.Sprintf("%032x", i)} {
			if got := found(r, id); got != "" {
				t.Errorf("%s finds %s", id, got)
			}
		}
	}
	if n := len(r.byID); n != 9 {
		t.Errorf("%d ids in memory for 3 journeys of 3 ids", n)
	}
}

func TestRecentOfNone(t *testing.T) {
	r := newRecent(0)
	r.add(journeyOf("a", 1, uuid(1)))
	if got := found(r, uuid(1)); got != "" || r.latest(1) != nil {
		t.Errorf("found %q", got)
	}
}
