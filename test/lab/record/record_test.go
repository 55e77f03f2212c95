package record

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecords(t *testing.T) {
	name := filepath.Join(t.TempDir(), "records")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{{TruthID: "a", Target: "/x", Status: 200}, {Target: "/lab.Count/Talk", Received: 3, Sent: 4, Status: 5, Error: "gone"}}
	for _, r := range want {
		if err := w.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	add(t, name, `{"target":"/half`)
	if diff := cmp.Diff(want, read(t, name, false)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	add(t, name, "\n{}\n")
	if diff := cmp.Diff(append(want, Record{}), read(t, name, true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var none *Writer
	if err := none.Add(Record{}); err != nil {
		t.Error(err)
	}
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}

func add(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// read returns all records; after a broken one, which ends it, an empty one.
func read(t *testing.T, name string, broken bool) (all []Record) {
	t.Helper()
	for r, err := range Read(name) {
		if (err != nil) && !broken {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}
