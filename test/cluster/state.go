package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/state"
)

// stateDir is all that a cluster writes on the machine. It is on a disk, as containers' layers must be:
//
//	cluster.json  the Cluster
//	pki/          keys, certificates and kubeconfigs
//	conf/         configuration of the processes
//	logs/         what they print
//	etcd/         the API's objects
//	nN/           what node N keeps: kubelet, containerd, pod logs, its own view of /etc, /var/lib and /var/log
const stateDir = "/var/tmp/meshwatch-cluster"

const tail = 600 // bytes of each log that an error shows

// lockFile keeps two processes from building or removing at the same time. It stays, empty.
const lockFile = "/run/lock/meshwatch-cluster.lock"

func path(elem ...string) string { return filepath.Join(append([]string{stateDir}, elem...)...) }

// lock waits while another process builds or removes a cluster.
func lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(lockFile), 0o755); err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	said := false
	e := await.Until(ctx, func() bool {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) && !said {
			slog.Info("cluster: another process builds or removes one, waiting for it")
			said = true
		}
		return !errors.Is(err, unix.EWOULDBLOCK)
	})
	if err := errors.Join(err, e); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the cluster: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func open(root string) (*Cluster, error) {
	c := &Cluster{root: root}
	if err := state.Read(path("cluster.json"), c); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cluster) save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return state.Write(path("cluster.json"), c)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
