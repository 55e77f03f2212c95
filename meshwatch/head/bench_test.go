package head

import "testing"

const typical = "GET /api/v1/products/42?currency=EUR HTTP/1.1\r\nhost: frontend.shop.svc.cluster.local:8080\r\n" +
	"user-agent: Go-http-client/1.1\r\naccept-encoding: gzip\r\nx-forwarded-proto: http\r\n" +
	"x-request-id: 4f2b1c7e-9d3a-9b8e-8f11-0a1b2c3d4e5f\r\nx-envoy-attempt-count: 1\r\ncontent-length: 0\r\n\r\n"

const traced = "POST /cart HTTP/1.1\r\nhost: cart:80\r\nx-request-id: 4f2b1c7e-9d3a-9b8e-8f11-0a1b2c3d4e5f\r\n" +
	"content-type: application/json\r\ncontent-length: 123\r\nx-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7\r\n" +
	"x-b3-spanid: e457b5a2e4d86bd1\r\nx-b3-sampled: 1\r\n" +
	"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"

const answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\n" +
	"content-length: 5120\r\nx-envoy-upstream-service-time: 3\r\nserver: envoy\r\n\r\n"

func benchmark(b *testing.B, text string) {
	p, h, in := New(Config{CaptureHeaders: []string{"X-Truth"}}), &Head{}, []byte(text)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if p.Parse(in, h) != Complete {
			b.Fatal("not complete")
		}
	}
}

func BenchmarkRequest(b *testing.B)       { benchmark(b, typical) }
func BenchmarkRequestTraced(b *testing.B) { benchmark(b, traced) }
func BenchmarkResponse(b *testing.B)      { benchmark(b, answer) }

func BenchmarkNotHTTP(b *testing.B) {
	p, h, in := New(Config{}), &Head{}, []byte("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n")
	for b.Loop() {
		p.Parse(in, h)
	}
}

func benchmarkID(b *testing.B, text string) {
	in := []byte(text)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := ParseID(in); !ok {
			b.Fatal("refused")
		}
	}
}

func BenchmarkIDUUID(b *testing.B)  { benchmarkID(b, "4f2b1c7e-9d3a-9b8e-8f11-0a1b2c3d4e5f") }
func BenchmarkIDOther(b *testing.B) { benchmarkID(b, "0A000001:D431_0A000002:1F90_65A1B2C3_0042:1A2B") }

func TestNoAllocs(t *testing.T) {
	p, h := New(Config{CaptureHeaders: []string{"Host", "X-Truth"}}), &Head{}
	inputs := []string{typical, traced, answer, typical[:200], "\x16\x03\x01\x02\x00", "EHLO example\r\n", "GET / HTTP/1.1\r\n" +
		"b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\nuber-trace-id: 1%3A2%3A0%3A1\r\n" +
		"sw8: " + sw8Value + "\r\nx-request-id: other\r\nconnection: close, upgrade\r\n\r\n"}
	for _, in := range inputs {
		b := []byte(in)
		p.Parse(b, h) // Captured is made once
		n := testing.AllocsPerRun(100, func() {
			p.Parse(b, h)
			LooksLikeHTTP(b)
			h.MessageLen(h.Method)
			ParseID(h.RequestID)
		})
		if n != 0 {
			t.Errorf("%v allocations for %q", n, in)
		}
	}
}
