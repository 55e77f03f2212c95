package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshwatch/meshwatch/test/tree"
)

// images are those of the cluster, smallest first: what can start, starts.
var images = []string{"pause", "app", "coredns", "pilot", "proxyv2"}

const (
	imageHub = "lab.local" // no such registry: images are imported
	imageTag = "lab"
)

func image(name string) string { return imageHub + "/" + name + ":" + imageTag }

// imageFile is the archive of an image.
func (c *Cluster) imageFile(name string) string { return tree.Cached(c.root, "images", name+".tar") }

// buildImages writes the images whose parts have changed.
func (c *Cluster) buildImages() error {
	if err := os.MkdirAll(tree.Cached(c.root, "images"), 0o755); err != nil {
		return fmt.Errorf("build images: %w", err)
	}
	if err := c.buildPrograms(); err != nil {
		return err
	}
	for _, name := range images {
		img, err := c.describe(name)
		if err != nil {
			return fmt.Errorf("build image %s: %w", name, err)
		}
		key, err := img.key()
		if err != nil {
			return fmt.Errorf("build image %s: %w", name, err)
		}
		file := c.imageFile(name)
		if old, err := os.ReadFile(file + ".key"); err == nil && string(old) == key && exists(file) {
			continue
		}
		if err := errors.Join(os.RemoveAll(file+".key"), WriteImage(file, img)); err != nil {
			return err
		}
		if err := os.WriteFile(file+".key", []byte(key), 0o644); err != nil {
			return fmt.Errorf("build image %s: %w", name, err)
		}
	}
	return nil
}

// buildPrograms builds the programs of this tree that run in the cluster: seconds at first, then nothing.
func (c *Cluster) buildPrograms() error {
	for name, pkg := range map[string]string{"lab-app-static": "./test/lab/app", "pause": "./test/cluster/cmd/pause", "runc-v2": "./test/cluster/cmd/runc-v2"} {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", tree.Cached(c.root, "bin", name), pkg)
		cmd.Dir, cmd.Env = c.root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// describe says what is in an image.
func (c *Cluster) describe(name string) (Image, error) {
	img := Image{Name: image(name), Text: map[string]string{}, Files: map[string]string{}}
	switch name {
	case "pause":
		img.Files["/pause"] = c.program("pause")
		img.Entrypoint = []string{"/pause"}
	case "app":
		img.Files["/app"] = c.program("lab-app-static")
		img.Files["/usr/bin/fortio"] = c.program("fortio")
		img.Entrypoint = []string{"/app"}
		return img, img.addLibraries(c.program("fortio"))
	case "coredns":
		img.Files["/coredns"] = c.program("coredns")
		img.Entrypoint = []string{"/coredns"}
	case "pilot":
		img.addUsers()
		img.Files["/usr/local/bin/pilot-discovery"] = c.program("pilot-discovery")
		img.Entrypoint, img.User = []string{"/usr/local/bin/pilot-discovery"}, "1337:1337"
	case "proxyv2":
		return img, c.describeProxy(&img)
	}
	return img, nil
}

// describeProxy: the agent, Envoy, and what istio-init sets its rules with.
func (c *Cluster) describeProxy(img *Image) error {
	img.addUsers()
	img.Entrypoint = []string{"/usr/local/bin/pilot-agent"}
	img.Dirs = []string{"/home/istio-proxy", "/etc/istio", "/var/run"}
	maps.Copy(img.Files, map[string]string{
		"/usr/local/bin/pilot-agent":                     c.program("pilot-agent"),
		"/usr/local/bin/envoy":                           tree.Cached(c.root, "envoy"),
		"/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": tree.Cached(c.root, "istio", "envoy_bootstrap.json"),
		"/etc/protocols":                                 "/etc/protocols",
	})
	const multi = "/usr/sbin/xtables-nft-multi"
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "iptables-nft", "iptables-nft-save", "iptables-nft-restore"} {
		img.Files["/usr/sbin/"+name] = multi
		img.Files["/usr/sbin/ip6"+strings.TrimPrefix(name, "ip")] = multi
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables")
	if err != nil || len(extensions) == 0 {
		return errors.New("iptables' extensions are not in /usr/lib/*/xtables: run test/install.sh cluster")
	}
	img.Files[extensions[0]] = extensions[0]
	return img.addLibraries(tree.Cached(c.root, "envoy"), multi)
}

func (img *Image) addUsers() {
	img.Text["/etc/passwd"] = "root:x:0:0:root:/root:/bin/false\nistio-proxy:x:1337:1337::/home/istio-proxy:/bin/false\n"
	img.Text["/etc/group"] = "root:x:0:\nistio-proxy:x:1337:\n"
	img.Text["/etc/nsswitch.conf"] = "hosts: files dns\n"
	const certificates = "/etc/ssl/certs/ca-certificates.crt"
	if exists(certificates) {
		img.Files[certificates] = certificates
	}
}

// addLibraries adds the shared libraries that programs need.
func (img *Image) addLibraries(programs ...string) error {
	for _, p := range programs {
		out, err := exec.Command("ldd", p).CombinedOutput()
		if strings.Contains(string(out), "not a dynamic executable") {
			continue
		}
		if err != nil {
			return fmt.Errorf("list libraries of %s: %w: %s", filepath.Base(p), err, out)
		}
		for word := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(word, "/") {
				img.Files[word] = word
			}
		}
	}
	return nil
}

// key tells images of other content apart: it is made of the names, sizes and times of their files.
func (img Image) key() (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q %q\n", img.Name, img.Entrypoint, img.User, img.Dirs)
	for _, to := range slices.Sorted(maps.Keys(img.Text)) {
		fmt.Fprintf(sum, "%q %q\n", to, img.Text[to])
	}
	for _, to := range slices.Sorted(maps.Keys(img.Files)) {
		info, err := os.Stat(img.Files[to])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%q %d %d\n", to, info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
