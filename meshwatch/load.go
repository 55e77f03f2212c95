package meshwatch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ConfigError is a configuration that cannot be used. Its text has a line for everything that is wrong.
type ConfigError struct {
	Path string // empty: not from a file
	Err  error
}

func (e *ConfigError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("bad configuration: %v", e.Err)
	}
	return fmt.Sprintf("bad configuration in %s: %v", e.Path, e.Err)
}

func (e *ConfigError) Unwrap() error { return e.Err }

// Load reads a configuration file over the defaults. Errors are of type *ConfigError.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the operator's own path
	if err != nil {
		return Config{}, &ConfigError{Path: path, Err: err}
	}
	c, err := Parse(b)
	if err != nil {
		return Config{}, &ConfigError{Path: path, Err: err}
	}
	return c, nil
}

// Parse reads a configuration file's content over the defaults and validates it.
func Parse(b []byte) (Config, error) {
	c := Default()
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return c, nil
	case err != nil:
		return Config{}, err
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("the file has a second document: only one is allowed")
	}
	var p configParser
	p.section(doc.Content[0], "", reflect.ValueOf(&c).Elem())
	if len(p.errs) > 0 {
		return Config{}, errors.Join(p.errs...)
	}
	return c, c.Validate()
}

// configParser walks the YAML nodes itself, so that every error can name its key and line.
type configParser struct{ errs []error }

func (p *configParser) fail(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...)))
}

// section reads a mapping into a struct; what the mapping leaves out stays as it is.
func (p *configParser) section(n *yaml.Node, at string, into reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode:
		p.fail(n, "%s is an alias: write the keys out", orFile(at))
		return
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return
	case n.Kind != yaml.MappingNode:
		p.fail(n, "%s must be a mapping of keys to values", orFile(at))
		return
	}
	fields := options(into)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := strings.TrimPrefix(at+"."+key.Value, ".")
		field, known := fields[key.Value]
		switch {
		case !known:
			p.fail(key, "unknown key %s: %s knows %s", name, orFile(at), strings.Join(names(into.Type()), ", "))
		case seen[key.Value]:
			p.fail(key, "%s is set a second time", name)
		case field.Kind() == reflect.Struct:
			p.section(value, name, field)
		default:
			p.value(value, name, field)
		}
		seen[key.Value] = true
	}
}

func (p *configParser) value(n *yaml.Node, name string, into reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	read := reflect.New(into.Type())
	cut := into.Kind() == reflect.Int && n.Tag != "!!int" // 1.5 would become 1
	if err := n.Decode(read.Interface()); err != nil || n.Kind == yaml.AliasNode || cut {
		p.fail(n, "%s must be %s", name, wanted(into.Type()))
		return
	}
	into.Set(read.Elem())
}

// options are a section's fields by their key.
func options(section reflect.Value) map[string]reflect.Value {
	out := map[string]reflect.Value{}
	for i, name := range names(section.Type()) {
		out[name] = section.Field(i)
	}
	return out
}

// names are the keys of a section, in the order of its fields.
func names(section reflect.Type) []string {
	var out []string
	for i := range section.NumField() {
		f := section.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			name = strings.ToLower(f.Name) // bpf.Sizes knows nothing of YAML
		}
		out = append(out, name)
	}
	return out
}

func orFile(at string) string {
	if at == "" {
		return "the file"
	}
	return at
}

func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration with its unit, such as 200ms or 1s"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.Slice:
		return "a list of words"
	}
	return "a word"
}
