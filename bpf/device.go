package bpf

import (
	"errors"

	"github.com/cilium/ebpf/link"
)

// Devices holds the programs where packets leave and enter devices (device.bpf.c), for all namespaces at once.
type Devices struct {
	objs    devicePrograms
	links   []link.Link
	ingress []link.Link // attached while there is full depth
}

func loadDeviceProgs(l loader) (*Devices, error) {
	d := &Devices{}
	spec, err := loadDevice()
	return d, l.load("device", spec, err, &d.objs)
}

// Attach starts the program where packets leave.
func (d *Devices) Attach() (err error) {
	d.links, err = attachTracing(d.objs.MwQueue)
	return err
}

// deep says whether what comes in is looked at, too. It may be said again.
func (d *Devices) deep(on bool) (err error) {
	switch {
	case on && d.ingress == nil:
		d.ingress, err = attachTracing(d.objs.MwIngress)
	case !on && d.ingress != nil:
		err = closeAll(d.ingress)
		d.ingress = nil
	}
	return err
}

// Close detaches and frees the programs.
func (d *Devices) Close() error {
	if d == nil {
		return nil
	}
	return errors.Join(closeAll(d.links), closeAll(d.ingress), d.objs.Close())
}
