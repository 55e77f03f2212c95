package result

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() *Result {
	r := &Result{
		Command: "make accuracy", Machine: Machine{"6.18.0", 2, 24 << 30}, When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Details: map[string]int{"requests": 7}, name: "accuracy",
	}
	r.Bar("complete_16", 99.93, "%", Higher, 99.9)
	r.Bar("complete_64", 99.9, "%", Higher, 99.9) // exactly
	r.Bar("complete_256", 12.34567, "%", Higher, 99.9)
	r.Bar("wrong_joins_16", 0, "", Lower, 0)
	r.Bar("wrong_joins_64", 12345678, "", Lower, 0)
	return r
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := sample().Table(&out); err != nil {
		t.Fatal(err)
	}
	want := `make accuracy, 2026-01-02T03:04:05Z: 2 CPUs, 24 GiB, Linux 6.18.0

BAR             VALUE     SHOULD BE  MET
complete_16     99.93 %   ≥ 99.9 %   yes
complete_64     99.9 %    ≥ 99.9 %   yes
complete_256    12.346 %  ≥ 99.9 %   NO
wrong_joins_16  0         ≤ 0        yes
wrong_joins_64  12345678  ≤ 0        NO
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// The file has the form that everyone agreed on: these keys, and no others.
func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results", "accuracy.json")
	for range 2 { // the second replaces the first
		if err := sample().write(file); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	got["bars"] = got["bars"].([]any)[:1]
	want := map[string]any{
		"command": "make accuracy",
		"machine": map[string]any{"kernel": "6.18.0", "cpus": 2.0, "memory_bytes": float64(24 << 30)},
		"when":    "2026-01-02T03:04:05Z",
		"bars": []any{map[string]any{
			"name": "complete_16", "value": 99.93, "unit": "%", "bar": 99.9, "better": "higher", "met": true,
		}},
		"details": map[string]any{"requests": 7.0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 1 {
		t.Errorf("files %q: want one", left)
	}
}

func TestNothingMeasured(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1)} {
		r := sample()
		r.Bar("rate", v, "1/s", Higher, 1)
		if err := r.write(filepath.Join(t.TempDir(), "x.json")); err == nil || !strings.Contains(err.Error(), "bar rate has no value") {
			t.Errorf("value %v: error %v", v, err)
		}
	}
}

func TestNew(t *testing.T) {
	r, err := New("x", "make x")
	if err != nil {
		t.Fatal(err)
	}
	if r.Machine.Kernel == "" || r.Machine.CPUs < 1 || r.Machine.Memory < 1<<20 || r.Bars == nil {
		t.Errorf("%+v: something is missing", r)
	}
}
