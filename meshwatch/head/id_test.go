package head

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	const canonical = "4f2b1c7e9d3a4b8e8f110a1b2c3d4e5f"
	for name, tt := range map[string]struct {
		raw  string
		want string // hex, "": refused
		uuid bool
	}{
		"as made":          {"4f2b1c7e-9d3a-4b8e-8f11-0a1b2c3d4e5f", canonical, true},
		"Envoy sampled":    {"4f2b1c7e-9d3a-9b8e-8f11-0a1b2c3d4e5f", canonical, true},
		"Envoy forced":     {"4f2b1c7e-9d3a-ab8e-8f11-0a1b2c3d4e5f", canonical, true},
		"Envoy client":     {"4f2b1c7e-9d3a-bb8e-8f11-0a1b2c3d4e5f", canonical, true},
		"version 7":        {"4f2b1c7e-9d3a-7b8e-8f11-0a1b2c3d4e5f", canonical, true},
		"capitals":         {"4F2B1C7E-9D3A-4B8E-8F11-0A1B2C3D4E5F", canonical, true},
		"no dashes":        {"4f2b1c7e9d3a9b8e8f110a1b2c3d4e5f", canonical, true},
		"another":          {"4f2b1c7e-9d3a-4b8e-8f11-0a1b2c3d4e50", "4f2b1c7e9d3a4b8e8f110a1b2c3d4e50", true},
		"zeros":            {"00000000-0000-0000-0000-000000000000", "", false},
		"empty":            {"", "", false},
		"too long":         {strings.Repeat("a", MaxID+1), "", false},
		"control":          {"a\x1bb", "", false},
		"text":             {"abc", "ba7816bf8f018fea814140de5dae2223", false}, // sha256("abc"), version and variant set
		"dashes displaced": {"4f2b1c7e9-d3a-4b8e-8f11-0a1b2c3d4e5f", "6c87934877da8e318437fda54bc3fc4e", false},
	} {
		t.Run(name, func(t *testing.T) {
			id, ok := ParseID([]byte(tt.raw))
			if ok != (tt.want != "") {
				t.Fatalf("ok %v", ok)
			}
			if got := hex.EncodeToString(id[:]); ok && got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if ok && id.IsUUID() != tt.uuid {
				t.Errorf("IsUUID %v", id.IsUUID())
			}
		})
	}
}

// A text id that was chosen to look like another's UUID must not equal it.
func TestIDDomains(t *testing.T) {
	other, _ := ParseID([]byte("abc"))
	same, ok := ParseID([]byte(hex.EncodeToString(other[:])))
	if !ok || same == other {
		t.Errorf("%x is the id of both a text and a UUID", same)
	}
}

func FuzzID(f *testing.F) {
	f.Add([]byte("4f2b1c7e-9d3a-9b8e-8f11-0a1b2c3d4e5f"))
	f.Add([]byte("4F2B1C7E9D3A4B8E8F110A1B2C3D4E5F"))
	f.Add([]byte("abc"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, ok := ParseID(raw)
		if !ok {
			if len(raw) > 0 && len(raw) <= MaxID && !bytes.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r == 0x7f }) &&
				strings.Trim(string(raw), "0-") != "" && strings.Trim(string(raw), "0-") != string(raw[min(14, len(raw)-1)]) {
				t.Errorf("refused %q", raw)
			}
			return
		}
		if v := id[versionByte] >> 4; v != 4 && v != 8 {
			t.Errorf("version %d", v)
		}
		if !id.IsUUID() {
			return
		}
		for _, text := range []string{hex.EncodeToString(id[:]), strings.ToUpper(string(raw)), strings.ReplaceAll(string(raw), "-", "")} {
			if again, _ := ParseID([]byte(text)); again != id {
				t.Errorf("%q is %x, %q is %x", raw, id, text, again)
			}
		}
	})
}
