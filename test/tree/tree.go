// Package tree finds the source tree of this module, and what test/install.sh made in it.
package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const module = "module github.com/meshwatch/meshwatch"

// Root is the directory of this module, from anywhere inside of it.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the source tree: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		mod, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if line, _, _ := strings.Cut(string(mod), "\n"); err == nil && strings.TrimSpace(line) == module {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("find the source tree: %s is not in it", dir)
		}
	}
}

// Cached names a file that test/install.sh makes.
func Cached(root string, elem ...string) string {
	return filepath.Join(append([]string{root, "test", ".cache"}, elem...)...)
}
