package meshwatch

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/configuration.md's table")

const reference = "../docs/configuration.md"

// option is a key as the reference has it.
type option struct {
	key, field string // keep.ratio, Ratio
	owner      reflect.Type
	value      reflect.Value
}

func allOptions(at string, section reflect.Value) (out []option) {
	for i, name := range names(section.Type()) {
		f, v := section.Type().Field(i), section.Field(i)
		key := strings.TrimPrefix(at+"."+name, ".")
		if v.Kind() == reflect.Struct {
			out = append(out, allOptions(key, v)...)
			continue
		}
		out = append(out, option{key, f.Name, section.Type(), v})
	}
	return out
}

// Every option is in docs/configuration.md with its default and its text, which is the comment of its field.
func TestReference(t *testing.T) {
	c := Default()
	var table strings.Builder
	table.WriteString("| key | default | meaning |\n|---|---|---|\n")
	comments := fieldComments(t, "config.go", "../bpf/sizes.go")
	for _, o := range allOptions("", reflect.ValueOf(&c).Elem()) {
		text := comments[o.owner.Name()+"."+o.field]
		if text == "" {
			t.Errorf("%s.%s has no comment", o.owner.Name(), o.field)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", o.key, defaultText(o.value), sentence(text))
	}
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	between := regexp.MustCompile(`(?s)(<!-- options -->\n)(.*)(<!-- end -->)`)
	if !between.Match(page) {
		t.Fatalf("%s has no place for the table", reference)
	}
	want := between.ReplaceAll(page, []byte("${1}"+strings.ReplaceAll(table.String(), "$", "$$")+"${3}"))
	if *update {
		if err := os.WriteFile(reference, want, 0o644); err != nil { //nolint:gosec // a page
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want), string(page)); diff != "" {
		t.Errorf("go test ./meshwatch -run TestReference -update brings it up to date (-want +got):\n%s", diff)
	}
}

// The page's example is a configuration that loads, and it names every section.
func TestReferenceExample(t *testing.T) {
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(page, []byte("```yaml\n"))
	example, _, found := bytes.Cut(rest, []byte("```"))
	if !found {
		t.Fatal("no example")
	}
	if _, err := Parse(example); err != nil {
		t.Error(err)
	}
}

// Every option is read somewhere outside the files that define, load and check it.
func TestOptionsAreRead(t *testing.T) {
	read := map[string]bool{}
	for _, dir := range []string{".", "../bpf"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			base := filepath.Base(path)
			if err != nil || !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") || base == "validate.go" || base == "load.go" {
				return err
			}
			for name := range selectors(t, path) {
				read[name] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c := Default()
	for _, o := range allOptions("", reflect.ValueOf(&c).Elem()) {
		if !read[o.field] {
			t.Errorf("%s: nothing reads it", o.key)
		}
	}
}

// selectors are the names after a dot in a file.
func selectors(t *testing.T, path string) map[string]bool {
	out := map[string]bool{}
	ast.Inspect(parse(t, path), func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			out[s.Sel.Name] = true
		}
		return true
	})
	return out
}

// fieldComments are the comments above or behind the fields of structs, by "Type.Field".
func fieldComments(t *testing.T, paths ...string) map[string]string {
	out := map[string]string{}
	for _, path := range paths {
		ast.Inspect(parse(t, path), func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range s.Fields.List {
				text := strings.Join(strings.Fields(f.Doc.Text()+" "+f.Comment.Text()), " ")
				for _, name := range f.Names {
					out[spec.Name.Name+"."+name.Name] = text
				}
			}
			return true
		})
	}
	return out
}

func parse(t *testing.T, path string) *ast.File {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// sentence makes one of a comment behind a field.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}

func defaultText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []string:
		if len(x) == 0 {
			return "`[]`"
		}
		return "`[" + strings.Join(x, ", ") + "]`"
	case string:
		if x == "" {
			return "empty"
		}
		return "`" + x + "`"
	case time.Duration:
		return "`" + x.String() + "`"
	}
	return fmt.Sprintf("`%v`", v.Interface())
}
