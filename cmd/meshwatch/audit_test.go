package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
)

func TestAuditTable(t *testing.T) {
	var got strings.Builder
	err := auditTable(&got, &audit.Report{
		Entries: 2010, Own: 3, Again: 1, Waiting: 4,
		All:     audit.Method{Right: 1999, Wrong: 1, Precision: audit.Wilson(1999, 2000), Recall: audit.Wilson(1999, 2002)},
		Methods: []audit.Method{{Method: "request-id", Right: 1999, Wrong: 1, Precision: audit.Wilson(1999, 2000), Recall: audit.Wilson(1999, 2002)}, {Method: "trace"}},
		Missing: []audit.Count{{Reason: "no-id", Count: 2}}, Unknown: []audit.Count{{Reason: "ambiguous", Count: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `METHOD      RIGHT  WRONG  PRECISION  95 %           RECALL    95 %
request-id  1999   1      99.950 %   99.717–99.991  99.850 %  99.560–99.949
trace       0      0      -          -              -         -
all         1999   1      99.950 %   99.717–99.991  99.850 %  99.560–99.949

not joined: no-id               2
nothing can be said: ambiguous  1
2010 entries of access logs; 3 of requests that the proxy answered itself, 1 said before, 4 wait
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
