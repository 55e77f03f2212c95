// Package state is the files in which a lab keeps what it is and what its processes say, for whoever looks after it later.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces a JSON file at once.
func Write(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	tmp := name + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Read reads what Write wrote.
func Read(name string, v any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// Tails are the last bytes of every log in a directory, for the error of a lab that did not come up.
func Tails(dir string, last int) error {
	files, _ := filepath.Glob(filepath.Join(dir, "*.log")) //nolint:errcheck // the pattern is right
	var errs []error
	for _, f := range files {
		text, err := os.ReadFile(f)
		if text = bytes.TrimSpace(text); err == nil && len(text) > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", filepath.Base(f), text[max(0, len(text)-last):]))
		}
	}
	return errors.Join(errs...)
}
