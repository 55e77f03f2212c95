package tlsfind

import "testing"

func TestCheapest(t *testing.T) {
	for name, c := range map[string]struct {
		code    string
		args    registers
		at      int
		stepped bool
	}{
		"push":                         {"\x55\x48\x89\xe5", allRegisters, 0, false},
		"push r15 behind endbr64":      {"\xf3\x0f\x1e\xfa\x41\x57", allRegisters, 4, false},
		"sub rsp, then je":             {"\x48\x83\xec\x18\x48\x83\x7f\x30\x00\x74\x10", cArguments, 9, false},
		"sub rsp, where rsp is needed": {"\x48\x83\xec\x18\x48\x83\x7f\x30\x00\x74\x10", allRegisters, 0, true},
		"an argument is written":       {"\x31\xd2\x55", cArguments, 0, true},
		"another register is written":  {"\x31\xc0\x55", cArguments, 2, false},
		"jbe of C, which not all pass": {"\x48\x83\xfa\x10\x76\x10\x55", cArguments, 4, false},
		"Go's check of the stack":      {"\x49\x3b\x66\x10\x76\x10\x55", goArguments, 6, false},
		"the same, far":                {"\x49\x3b\x66\x10\x0f\x86\x00\x01\x00\x00\x55", goArguments, 10, false},
		"Go, large stack":              {"\x4c\x8d\x64\x24\xe8\x4d\x3b\x66\x10\x76\x10\x55", goArguments, 11, false},
		"code that is not understood":  {"\xc4\xe2\x79\x18\x06\x55", cArguments, 0, true},
		"nothing emulated before ud2":  {"\x48\x83\xec\x18", cArguments, 0, true},
	} {
		code := []byte(c.code + "\x0f\x0b\x0f\x0b\x0f\x0b") // ud2
		if at, stepped := cheapest(code, c.args); at != c.at || stepped != c.stepped {
			t.Errorf("%s: %d, stepped %v, want %d, %v", name, at, stepped, c.at, c.stepped)
		}
	}
}
