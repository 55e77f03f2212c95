package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSummarize(t *testing.T) {
	const p = `"Package":"github.com/meshwatch/meshwatch/x"`
	for _, c := range []struct {
		name, in, want          string
		passed, failed, skipped int
	}{
		{"nothing", "", "\n0 passed, 0 failed, 0 skipped\n", 0, 0, 0},
		{"go's own words", "go: downloading a v1\n", "go: downloading a v1\n\n0 passed, 0 failed, 0 skipped\n", 0, 0, 0},
		{"pass, skip, subtests", `
{"Action":"run",` + p + `,"Test":"A"}
{"Action":"output",` + p + `,"Test":"A","Output":"noise\n"}
{"Action":"pass",` + p + `,"Test":"A","Elapsed":0}
{"Action":"run",` + p + `,"Test":"B"}
{"Action":"run",` + p + `,"Test":"B/one"}
{"Action":"pass",` + p + `,"Test":"B/one"}
{"Action":"run",` + p + `,"Test":"B/two"}
{"Action":"output",` + p + `,"Test":"B/two","Output":"    b_test.go:7: needs root\n"}
{"Action":"output",` + p + `,"Test":"B/two","Output":"    --- SKIP: B/two (0.00s)\n"}
{"Action":"skip",` + p + `,"Test":"B/two"}
{"Action":"pass",` + p + `,"Test":"B"}
{"Action":"output",` + p + `,"Output":"PASS\n"}
{"Action":"pass",` + p + `,"Elapsed":1.25}
`, "ok    x  1.2 s\n\nskipped:\n  x B/two: needs root\n\n2 passed, 0 failed, 1 skipped\n", 2, 0, 1},
		{"fail", `
{"Action":"run",` + p + `,"Test":"A"}
{"Action":"output",` + p + `,"Test":"A","Output":"    a_test.go:7: wrong\n"}
{"Action":"fail",` + p + `,"Test":"A"}
{"Action":"fail",` + p + `,"Elapsed":1}
`, "    a_test.go:7: wrong\nFAIL  x  1.0 s\n\n0 passed, 1 failed, 0 skipped\n", 0, 1, 0},
		{"panic: the package fails and its test never ends", `
{"Action":"run",` + p + `,"Test":"A"}
{"Action":"output",` + p + `,"Test":"A","Output":"panic: oh\n"}
{"Action":"fail",` + p + `,"Elapsed":1}
`, "panic: oh\nFAIL  x  1.0 s\n\n0 passed, 1 failed, 0 skipped\n", 0, 1, 0},
		{"TestMain fails", `
{"Action":"output",` + p + `,"Output":"no\n"}
{"Action":"output",` + p + `,"Output":"FAIL\tx\t1.0s\n"}
{"Action":"fail",` + p + `,"Elapsed":1}
`, "no\nFAIL  x  1.0 s\n\n0 passed, 1 failed, 0 skipped\n", 0, 1, 0},
		{"build fails", `
{"ImportPath":"i","Action":"build-output","Output":"x.go:1: syntax\n"}
{"ImportPath":"i","Action":"build-fail"}
{"Action":"fail",` + p + `,"Elapsed":0,"FailedBuild":"i"}
`, "x.go:1: syntax\nFAIL  x  0.0 s\n\n0 passed, 1 failed, 0 skipped\n", 0, 1, 0},
		{"go test itself was ended", `
{"Action":"run",` + p + `,"Test":"A"}
{"Action":"output",` + p + `,"Test":"A","Output":"begun\n"}
`, "begun\nx A did not end\n\n0 passed, 1 failed, 0 skipped\n", 0, 1, 0},
	} {
		var out strings.Builder
		s, err := summarize(strings.NewReader(c.in), &out)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if s.passed != c.passed || s.failed != c.failed || s.skipped != c.skipped {
			t.Errorf("%s: %d %d %d", c.name, s.passed, s.failed, s.skipped)
		}
	}
}
