package bpf

import "testing"

//go:noinline
func inner(n int) int { return n + 1 }

//go:noinline
func outer(n int) int { return inner(n) + 1 }

// BenchmarkTrap is what a call costs that a probe is on, while the programs are switched off: where the kernel emulates the probed
// instruction, and where it has the CPU single-step it.
func BenchmarkTrap(b *testing.B) {
	privileged(b)
	r, err := Load(Options{Sizes: DefaultSizes()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	}()
	if r.TLS == nil {
		b.Skip("this kernel or machine cannot probe TLS libraries")
	}
	entry, push := prologue(b, outer)
	for _, c := range []struct {
		name   string
		points []TLSPoint
	}{
		{"none", nil},
		{"emulated", []TLSPoint{{TLSGoWrite, push}}},
		{"stepped", []TLSPoint{{TLSGoWrite, entry}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			p, err := r.TLS.Attach("/proc/self/exe", c.points)
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := p.Close(); err != nil {
					b.Error(err)
				}
			}()
			n := 0
			for b.Loop() {
				n = outer(n)
			}
		})
	}
}
