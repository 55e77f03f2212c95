package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshwatch/meshwatch/topology"
)

// addressType is Istio's workload discovery: every workload and every service of the mesh is one resource.
const addressType = "type.googleapis.com/istio.workload.Address"

// The field numbers of Istio's workload.proto that are read. Its Go types are part of istiod's own module, which is far too much to
// depend on for two messages.
const (
	addressWorkload protowire.Number = 1
	addressService  protowire.Number = 2

	workloadName      protowire.Number = 1
	workloadNamespace protowire.Number = 2
	workloadAddress   protowire.Number = 3
	workloadNetwork   protowire.Number = 4
	workloadAccount   protowire.Number = 7
	workloadNode      protowire.Number = 9
	workloadCanonical protowire.Number = 10
	workloadRevision  protowire.Number = 11
	workloadOwner     protowire.Number = 13 // the Deployment's name and the like
	workloadStatus    protowire.Number = 17
	workloadCluster   protowire.Number = 18
	workloadServices  protowire.Number = 22
	workloadLocality  protowire.Number = 24
	workloadMode      protowire.Number = 25

	serviceName      protowire.Number = 1
	serviceNamespace protowire.Number = 2
	serviceHost      protowire.Number = 3
	serviceAddress   protowire.Number = 4
	servicePort      protowire.Number = 5
)

// addresses puts resources into a Builder.
type addresses struct {
	builder *topology.Builder
}

// set takes a resource. Names of workloads and services differ in istiod, but nothing says they have to: what had the name before
// goes.
func (a *addresses) set(name string, value []byte, m topology.Moment) error {
	var entry *topology.Entry
	var service *topology.Service
	err := fields(value, func(n protowire.Number, b []byte, _ uint64) (err error) {
		switch n {
		case addressWorkload:
			entry, err = workload(b)
		case addressService:
			service, err = serviceOf(b)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case (entry == nil) == (service == nil):
		return errors.New("it is neither a workload nor a service")
	case entry != nil:
		entry.Workload.Kind = kindOf(name)
		a.builder.RemoveService(name)
		a.builder.Set(name, *entry, m)
	default:
		a.builder.Remove(name, m)
		a.builder.SetService(name, *service)
	}
	return nil
}

// kindOf is the kind in istiod's name of a workload, cluster/group/kind/namespace/name; empty: it is not of that form.
func kindOf(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) < 5 {
		return ""
	}
	return parts[2]
}

func (a *addresses) remove(name string, m topology.Moment) {
	a.builder.Remove(name, m)
	a.builder.RemoveService(name)
}

func workload(b []byte) (*topology.Entry, error) {
	e := &topology.Entry{}
	w, owner := &e.Workload, ""
	text := map[protowire.Number]*string{
		workloadName: &w.Name, workloadNamespace: &w.Namespace, workloadNetwork: &w.Network, workloadAccount: &w.Account, workloadNode: &w.Node,
		workloadCanonical: &w.Service, workloadRevision: &w.Revision, workloadOwner: &owner, workloadCluster: &w.Cluster,
	}
	err := fields(b, func(n protowire.Number, v []byte, number uint64) (err error) {
		if into := text[n]; into != nil {
			*into, err = word(v)
			return err
		}
		switch n {
		case workloadAddress:
			return address(v, &e.Addresses)
		case workloadStatus:
			e.Unhealthy = number != 0
		case workloadMode:
			e.Shared = number != 0
		case workloadLocality:
			return locality(v, w)
		case workloadServices:
			return workloadPorts(v, e)
		}
		return nil
	})
	slices.Sort(e.Services) // they come from a map
	slices.Sort(e.Ports)
	if err == nil && w.Name == "" {
		err = errors.New("the workload has no name")
	}
	for _, name := range []string{owner, w.Name} {
		if w.Service == "" {
			w.Service = name
		}
	}
	return e, err
}

func locality(b []byte, w *topology.Workload) error {
	return fields(b, func(n protowire.Number, v []byte, _ uint64) (err error) {
		switch n {
		case 1:
			w.Region, err = word(v)
		case 2:
			w.Zone, err = word(v)
		}
		return err
	})
}

// workloadPorts reads one of a workload's services: namespace/host → ports.
func workloadPorts(b []byte, e *topology.Entry) error {
	return fields(b, func(n protowire.Number, v []byte, _ uint64) error {
		if n == 1 {
			name, err := word(v)
			e.Services = append(e.Services, name)
			return err
		}
		ports, err := ports(v, 1)
		for _, p := range ports {
			if !slices.Contains(e.Ports, p.Target) {
				e.Ports = append(e.Ports, p.Target)
			}
		}
		return err
	})
}

func serviceOf(b []byte) (*topology.Service, error) {
	s := &topology.Service{}
	text := map[protowire.Number]*string{serviceName: &s.Name, serviceNamespace: &s.Namespace, serviceHost: &s.Host}
	err := fields(b, func(n protowire.Number, v []byte, _ uint64) (err error) {
		if into := text[n]; into != nil {
			*into, err = word(v)
		} else if n == serviceAddress {
			err = vip(v, s)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.Host == "" {
		return nil, errors.New("the service has no hostname")
	}
	s.Ports, err = ports(b, servicePort)
	return s, err
}

// vip reads one of a service's addresses: (network, address, prefix length).
func vip(b []byte, s *topology.Service) error {
	var network string
	var addrs []netip.Addr
	err := fields(b, func(n protowire.Number, v []byte, _ uint64) (err error) {
		switch n {
		case 1:
			network, err = word(v)
		case 2:
			err = address(v, &addrs)
		}
		return err
	})
	for _, addr := range addrs {
		s.Addresses = append(s.Addresses, topology.VIP{Network: network, Addr: addr})
	}
	return err
}

// ports reads the ports in a repeated field.
func ports(b []byte, field protowire.Number) (out []topology.Port, err error) {
	return out, fields(b, func(n protowire.Number, v []byte, _ uint64) error {
		if n != field {
			return nil
		}
		var p topology.Port
		err := fields(v, func(n protowire.Number, _ []byte, number uint64) error {
			switch {
			case n == 1 && number <= 65535:
				p.Service = uint16(number)
			case n == 2 && number <= 65535:
				p.Target = uint16(number)
			case n <= 2:
				return fmt.Errorf("a port is %d: it must be at most 65535", number)
			}
			return nil
		})
		out = append(out, p)
		return err
	})
}

// word is a string as Protocol Buffers have them, which backends rely on.
func word(b []byte) (string, error) {
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%q is no UTF-8", b)
	}
	return string(b), nil
}

func address(b []byte, into *[]netip.Addr) error {
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return fmt.Errorf("an address has %d bytes: it must have 4 or 16", len(b))
	}
	*into = append(*into, addr)
	return nil
}

// fields walks a message: bytes of a length-delimited field, or the number of a varint; others are passed over.
func fields(b []byte, do func(n protowire.Number, v []byte, number uint64) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var v []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			v, size = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if kind != protowire.BytesType && kind != protowire.VarintType {
			continue
		}
		if err := do(n, v, number); err != nil {
			return err
		}
	}
	return nil
}
