package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// key is what test/install.sh appends to the names of what it builds.
var key = regexp.MustCompile(`-[0-9a-f]{12}$`)

// Memory is the resident memory of the cluster's processes by program, in megabytes (10⁶ bytes). Pages that processes share
// are counted for each.
func (c *Cluster) Memory() (map[string]float64, error) {
	trees, err := hierarchies()
	if err != nil {
		return nil, err
	}
	sum := map[string]float64{}
	for _, pid := range members(filepath.Join(trees.v2, cgroupRoot)) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			var kb float64
			if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
				sum[key.ReplaceAllString(filepath.Base(exe), "")] += kb * 1024 / 1e6
			}
		}
	}
	return sum, nil
}
