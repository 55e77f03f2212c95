// Command runc-v2 is runc for a node with a cgroup v2 layout on a machine whose controllers are all bound to version 1.
//
// It names a container's cgroup as the systemd driver does on a node that has version 2 only, below the node's own:
//
//	kubepods.slice/kubepods-QOS.slice/kubepods-QOS-podUID.slice/cri-containerd-ID.scope
//
// and takes out what needs a controller. The layout is real, limits are not enforced.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const runc = "/usr/sbin/runc"

func main() {
	err := prepare(os.Args[1:])
	if err == nil {
		err = syscall.Exec(runc, append([]string{"runc"}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, "runc-v2:", err)
	os.Exit(1)
}

// prepare rewrites the configuration of a container that is about to be created.
func prepare(args []string) error {
	if !slices.Contains(args, "create") && !slices.Contains(args, "run") {
		return nil
	}
	bundle := "."
	for i, a := range args {
		if (a == "--bundle" || a == "-b") && i+1 < len(args) {
			bundle = args[i+1]
		}
	}
	file := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	cgroup, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	node, err := nodeOf(string(cgroup))
	if err != nil {
		return err
	}
	if data, err = rewrite(data, node, args[len(args)-1]); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, data, 0o600)
}

// nodeOf is the node's cgroup, by that of its containerd: 0::/ROOT/sys/nN-containerd becomes /ROOT/nN.
// A container of anybody else's would be in the machine's tree, where nobody removes its cgroup.
func nodeOf(cgroups string) (string, error) {
	for line := range strings.Lines(cgroups) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		node, _, ok := strings.Cut(filepath.Base(own), "-")
		if root, sys := filepath.Split(filepath.Dir(own)); ok && sys == "sys" {
			return filepath.Join(root, node), nil
		}
	}
	return "", fmt.Errorf("the cgroup of this process is not that of a node's containerd: %q", cgroups)
}

// spec is an OCI configuration: what is read here, and the rest as it is.
type spec map[string]json.RawMessage

func rewrite(data []byte, node, id string) ([]byte, error) {
	var s, linux, resources spec
	annotations := map[string]string{}
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(s["linux"], &linux); err != nil {
		return nil, err
	}
	if raw, ok := s["annotations"]; ok {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return nil, err
		}
	}
	if raw, ok := linux["resources"]; ok {
		if err := json.Unmarshal(raw, &resources); err != nil {
			return nil, err
		}
	}
	kept := spec{}
	if devices, ok := resources["devices"]; ok {
		kept["devices"] = devices
	}
	var err error
	set := func(in spec, key string, value any) {
		raw, e := json.Marshal(value)
		if e != nil {
			err = e
		}
		in[key] = raw
	}
	set(linux, "resources", kept)
	set(linux, "cgroupsPath", filepath.Join(node, podSlice(node, annotations), "cri-containerd-"+id+".scope"))
	set(s, "linux", linux)
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// podSlice is where the pod's cgroup is, or will be. The sandbox comes first and knows the pod's resources; its containers
// follow it.
func podSlice(node string, annotations map[string]string) string {
	const prefix = "io.kubernetes.cri.sandbox-"
	uid := strings.ReplaceAll(annotations[prefix+"uid"], "-", "_")
	for _, qos := range []string{"-besteffort", "-burstable", ""} {
		if slice := sliceOf(qos, uid); isDir(filepath.Join("/sys/fs/cgroup", node, slice)) {
			return slice
		}
	}
	number := func(key string) int {
		n, _ := strconv.Atoi(annotations[prefix+key]) //nolint:errcheck // absent is none
		return n
	}
	const leastShares, sharesOfCPU = 2, 1024 // of a pod that asks for no CPU; of one CPU
	shares, quota, memory := number("cpu-shares"), number("cpu-quota"), number("memory")
	asked := shares * number("cpu-period") / sharesOfCPU // as a quota; shares are rounded
	switch {
	case shares <= leastShares && memory == 0:
		return sliceOf("-besteffort", uid)
	case quota > 0 && memory > 0 && asked >= quota-quota/100:
		return sliceOf("", uid)
	default:
		return sliceOf("-burstable", uid)
	}
}

func sliceOf(qos, uid string) string {
	pod := "kubepods" + qos + "-pod" + uid + ".slice"
	if qos == "" {
		return filepath.Join("kubepods.slice", pod)
	}
	return filepath.Join("kubepods.slice", "kubepods"+qos+".slice", pod)
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
