package cluster

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	slash "path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Image is what an image holds and starts. It has one layer, without compression: it is never sent anywhere.
type Image struct {
	Name       string            // with its registry's part and tag, as pods name it
	Entrypoint []string          //
	User       string            // UID or UID:GID; empty is root
	Files      map[string]string // path in the image → file, directory or, resolved, link on this machine
	Text       map[string]string // path in the image → content
	Dirs       []string          // empty directories that anybody may write
}

// WriteImage writes an image as an OCI archive, which Load and `ctr images import` read.
func WriteImage(file string, img Image) error {
	out, err := os.Create(file + ".new")
	if err != nil {
		return fmt.Errorf("write image %s: %w", img.Name, err)
	}
	err = errors.Join(img.write(out), out.Close())
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write image %s: %w", img.Name, err), os.RemoveAll(file+".new"))
	}
	return nil
}

// blob is a part of an archive that the others name by its digest.
type blob struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func newBlob(mediaType string, content any) (blob, []byte, error) {
	data, err := json.Marshal(content)
	sum := sha256.Sum256(data)
	return blob{MediaType: "application/vnd.oci.image." + mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data))}, data, err
}

// write writes the layer to a file beside first: an archive says how long its parts are before they come.
func (img Image) write(out *os.File) error {
	tmp, err := os.CreateTemp(filepath.Dir(out.Name()), ".layer") // not in /tmp, which may be memory: the largest has 150 MB
	if err != nil {
		return err
	}
	defer func() { _ = tmp.Close() }()
	if err := os.Remove(tmp.Name()); err != nil {
		return err
	}
	sum := sha256.New()
	if err := img.writeLayer(io.MultiWriter(tmp, sum)); err != nil {
		return err
	}
	size, err := tmp.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = tmp.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	layer := blob{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Size: size}
	return img.writeArchive(out, layer, tmp)
}

func (img Image) writeArchive(out io.Writer, layer blob, content io.Reader) error {
	config, configData, err := newBlob("config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": img.Entrypoint, "User": img.User, "WorkingDir": "/",
			"Env": []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, manifestData, err := newBlob("manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []blob{layer},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": img.Name}
	_, index, err := newBlob("index.v1+json", map[string]any{"schemaVersion": 2, "manifests": []blob{manifest}})
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	put := func(name string, size int64, r io.Reader) {
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size})
		}
		if err == nil {
			_, err = io.CopyN(w, r, size)
		}
	}
	text := func(name string, data []byte) { put(name, int64(len(data)), strings.NewReader(string(data))) }
	name := func(b blob) string { return "blobs/sha256/" + strings.TrimPrefix(b.Digest, "sha256:") }
	text("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	text("index.json", index)
	text(name(manifest), manifestData)
	text(name(config), configData)
	put(name(layer), layer.Size, content)
	return errors.Join(err, w.Close())
}

// layer writes a file system. A directory comes before what is in it.
type layer struct {
	w    *tar.Writer
	dirs map[string]bool
}

func (img Image) writeLayer(out io.Writer) error {
	l := layer{tar.NewWriter(out), map[string]bool{"/": true}}
	if err := l.dir("/tmp", 0o1777); err != nil {
		return err
	}
	for _, dir := range img.Dirs {
		if err := l.dir(dir, 0o777); err != nil {
			return err
		}
	}
	for _, to := range slices.Sorted(maps.Keys(img.Text)) {
		if err := l.text(to, img.Text[to]); err != nil {
			return err
		}
	}
	for _, to := range slices.Sorted(maps.Keys(img.Files)) {
		if err := l.copy(img.Files[to], to); err != nil {
			return err
		}
	}
	return l.w.Close()
}

func (l layer) dir(name string, mode int64) error {
	if l.dirs[name] {
		return nil
	}
	if err := l.dir(slash.Dir(name), 0o755); err != nil {
		return err
	}
	l.dirs[name] = true
	return l.w.WriteHeader(&tar.Header{Name: name[1:] + "/", Typeflag: tar.TypeDir, Mode: mode})
}

func (l layer) text(to, content string) error {
	if err := l.dir(slash.Dir(to), 0o755); err != nil {
		return err
	}
	err := l.w.WriteHeader(&tar.Header{Name: to[1:], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = io.WriteString(l.w, content)
	}
	return err
}

// copy copies a file, or all that is in a directory.
func (l layer) copy(from, to string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if err := l.dir(slash.Dir(slash.Join(to, rel)), 0o755); err != nil {
			return err
		}
		return l.file(name, slash.Join(to, rel))
	})
}

func (l layer) file(from, to string) error {
	if target, err := os.Readlink(from); err == nil {
		return l.w.WriteHeader(&tar.Header{Name: to[1:], Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777})
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	err = l.w.WriteHeader(&tar.Header{Name: to[1:], Typeflag: tar.TypeReg, Mode: int64(info.Mode().Perm()), Size: info.Size()})
	if err == nil {
		_, err = io.Copy(l.w, in)
	}
	return err
}
