package main

import (
	"iter"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/lab/record"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
)

// callsOf is what client and apps recorded of the requests of a test: 1 streams, 2 fails, the others echo.
func callsOf() map[string][]record.Record {
	records := map[string][]record.Record{}
	for n := range requests {
		rec := record.Record{TruthID: id(n), Target: rpc.Echo, Sent: 1, Received: 1}
		switch n {
		case 1:
			rec.Target, rec.Sent, rec.Received = rpc.Expand, 1, 5
		case 2:
			rec.Target, rec.Received, rec.Status = rpc.Fail, 0, 5
		}
		records["client"] = append(records["client"], rec)
		rec.Sent, rec.Received = rec.Received, rec.Sent
		records["frontend"] = append(records["frontend"], rec)
		records["backend"] = append(records["backend"], rec)
	}
	return records
}

func asCall(j *journey.Journey, rec record.Record) *journey.Journey {
	for _, e := range j.Exchanges {
		e.Protocol, e.Stream = "http/2", 1
		e.GRPC = &journey.GRPC{Status: rec.Status, Sent: uint32(rec.Sent), Received: uint32(rec.Received), Exact: true}
	}
	return j
}

// scoreCalls scores four calls, the last of which is not excluded: a load of calls ends in order.
func scoreCalls(t *testing.T, records map[string][]record.Record, spoil func(js) js) score {
	t.Helper()
	w := newWorld()
	var list js
	for n := range requests {
		w.serve(n)
		list = append(list, asCall(w.journey(n), callsOf()["client"][n]))
	}
	truth, err := readTruth(w.mesh, "run", w.log, false)
	if err != nil {
		t.Fatal(err)
	}
	err = truth.readCalls(func(pod string) iter.Seq2[record.Record, error] {
		return func(yield func(record.Record, error) bool) {
			for _, r := range records[pod] {
				if !yield(r, nil) {
					return
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newScorer(truth)
	for _, j := range spoil(list) {
		s.journey(j)
	}
	return s.finish()
}

func TestScoreCalls(t *testing.T) {
	type result struct {
		Complete, Streams, WrongJoins int
		Causes                        map[string]int
	}
	for _, test := range []struct {
		name  string
		spoil func(js) js
		want  result
	}{
		{"right", func(l js) js { return l }, result{3, 1, 0, map[string]int{}}},
		{"a message too few", func(l js) js { l[1].Exchanges[legBackend].GRPC.Received--; return l },
			result{3, 0, 0, one("call: backend sidecar→backend: response messages")}},
		{"a message too many", func(l js) js { l[1].Exchanges[legEdge].GRPC.Sent++; return l },
			result{3, 0, 0, one("call: client→gateway: request messages")}},
		{"not exact", func(l js) js { l[1].Exchanges[legFrontend].GRPC.Exact = false; return l },
			result{3, 0, 0, one("call: frontend sidecar→frontend: messages not counted exactly")}},
		{"another status", func(l js) js { l[2].Exchanges[legFrontendOut].GRPC.Status = 0; return l },
			result{2, 1, 0, one("call: frontend→its sidecar: status 0, not 5")}},
		{"no call", func(l js) js { l[0].Exchanges[legBackendIn].GRPC = nil; return l },
			result{2, 1, 0, one("call: frontend sidecar→backend sidecar: not seen as gRPC")}},
		{"a stream in two journeys", func(l js) js { return append(l, part(l[1], 0, legCount)) }, result{3, 0, 0, one(duplicateJourney)}},
		{"nobody's id on a shared connection", func(l js) js { l[0].Exchanges[legBackendIn].Headers = nil; return l },
			result{2, 1, 0, one("no truth id: frontend sidecar→backend sidecar")}},
		{"swapped leg", func(l js) js {
			a, b := l[0].Exchanges, l[1].Exchanges
			a[legBackendIn], b[legBackendIn] = b[legBackendIn], a[legBackendIn]
			return l
		}, result{2, 0, 2, map[string]int{wrongJoin: 2}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := scoreCalls(t, callsOf(), test.spoil)
			got := result{s.Complete, s.Streams.Complete, s.WrongJoins, s.Causes}
			if diff := cmp.Diff(test.want, got); diff != "" || s.Scored != 3 || s.Streams.Scored != 1 {
				t.Errorf("%d and %d scored (-want +got):\n%s", s.Scored, s.Streams.Scored, diff)
			}
		})
	}
}

// A call whose records disagree is nobody's fault.
func TestRecordsDisagree(t *testing.T) {
	for name, spoil := range map[string]func(map[string][]record.Record){
		"messages":  func(r map[string][]record.Record) { r["backend"][0].Received++ },
		"status":    func(r map[string][]record.Record) { r["frontend"][0].Status = 14 },
		"not ended": func(r map[string][]record.Record) { r["client"][0].Error = "deadline" },
		"missing":   func(r map[string][]record.Record) { r["frontend"] = r["frontend"][1:] },
		"no client": func(r map[string][]record.Record) { r["client"] = r["client"][1:] },
	} {
		records := callsOf()
		spoil(records)
		s := scoreCalls(t, records, func(l js) js { return l })
		if s.Scored != 2 || s.Streams.Scored != 1 || s.Requests[stateNames[logsDisagree]] != 1 || s.WrongJoins != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
