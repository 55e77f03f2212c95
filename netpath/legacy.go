package netpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// layout is how a family's legacy tables look (linux/netfilter_ipv4/ip_tables.h, ip6_tables.h).
type layout struct {
	family       string
	names        string // file that lists the namespace's tables: asking for another one would create it
	domain       int
	level        int
	targetOffset int // of target_offset in struct ipt_entry; next_offset follows
	entrySize    int // of struct ipt_entry without matches and target
}

var layouts = [...]layout{
	{"ip", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP, 88, 112},
	{"ip6", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6, 140, 168},
}

const (
	soGetInfo     = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries  = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES
	tableNameSize = 32 // XT_TABLE_MAXNAMELEN
	entriesAt     = 40 // in struct ipt_get_entries: name, size, then aligned to 8
	targetSize    = 32 // struct xt_entry_target: u16 size, name[29], u8 revision
)

// tableInfo is struct ipt_getinfo.
type tableInfo struct {
	Name       [tableNameSize]byte
	ValidHooks uint32
	HookEntry  [5]uint32 // offset of a hook's first rule
	Underflow  [5]uint32 // offset of its policy
	Entries    uint32
	Size       uint32 // bytes
}

// errTorn says that a table's bytes do not make sense.
var errTorn = errors.New("malformed table")

// readLegacy reads the legacy iptables rules of the namespace that the calling thread is in.
func readLegacy() (*ruleset, error) {
	set := newRuleset("legacy")
	var errs []error
	err := eachTable(func(fd int, l *layout, table string) error {
		info, entries, err := getTable(fd, l, table)
		if err == nil {
			err = set.addTable(l, table, info, entries)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read legacy table %s of %s: %w", table, l.family, err))
		}
		return nil
	})
	return set, errors.Join(append(errs, err)...)
}

// legacySignature changes when legacy tables come, go or change size; it costs two empty files where there are none.
func legacySignature() string {
	var sig []byte
	err := eachTable(func(fd int, l *layout, table string) error {
		info, err := getInfo(fd, l, table)
		if err != nil {
			return err
		}
		sig = fmt.Appendf(sig, "%s %s %d %d;", l.family, table, info.Entries, info.Size)
		return nil
	})
	if err != nil {
		sig = fmt.Append(sig, err)
	}
	return string(sig)
}

// eachTable calls f for the tables that the namespace has, with a socket to ask on.
func eachTable(f func(fd int, l *layout, table string) error) error {
	for i := range layouts {
		l := &layouts[i]
		names, err := os.ReadFile(l.names)
		if err != nil || len(names) == 0 {
			continue // no legacy iptables in this kernel, or no table
		}
		fd, err := unix.Socket(l.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open raw socket: %w", err)
		}
		for name := range bytes.Lines(names) {
			if err = f(fd, l, string(bytes.TrimSpace(name))); err != nil {
				break
			}
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	return nil
}

func getInfo(fd int, l *layout, table string) (*tableInfo, error) {
	info := &tableInfo{}
	copy(info.Name[:tableNameSize-1], table)
	size := uint32(unsafe.Sizeof(*info))
	if err := getsockopt(fd, l.level, soGetInfo, unsafe.Pointer(info), &size); err != nil {
		return nil, fmt.Errorf("get info: %w", err)
	}
	return info, nil
}

// getTable reads a table's entries; EAGAIN says that it was replaced between the two calls.
func getTable(fd int, l *layout, table string) (*tableInfo, []byte, error) {
	for range dumpTries {
		info, err := getInfo(fd, l, table)
		if err != nil {
			return nil, nil, err
		}
		buf := make([]byte, entriesAt+int(info.Size))
		copy(buf, info.Name[:])
		binary.NativeEndian.PutUint32(buf[tableNameSize:], info.Size)
		size := uint32(len(buf)) //nolint:gosec // the kernel limits a table to 512 MB
		err = getsockopt(fd, l.level, soGetEntries, unsafe.Pointer(&buf[0]), &size)
		if err == nil {
			return info, buf[entriesAt:], nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, nil, fmt.Errorf("get entries: %w", err)
		}
	}
	return nil, nil, fmt.Errorf("get entries: %w", unix.EAGAIN)
}

func getsockopt(fd, level, name int, value unsafe.Pointer, size *uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(value), uintptr(unsafe.Pointer(size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// addTable takes a table's entries: for each hook its rules and then the policy, then the users' chains, each begun by
// an ERROR entry. A chain is called by the offset of its first rule, as jumps do.
func (r *ruleset) addTable(l *layout, table string, info *tableInfo, entries []byte) error {
	starts := map[uint32]uint32{} // offset of a base chain's first rule → hook
	policies := map[uint32]bool{}
	for hook := range uint32(len(info.HookEntry)) {
		if info.ValidHooks&(1<<hook) != 0 {
			starts[info.HookEntry[hook]] = hook
			policies[info.Underflow[hook]] = true
		}
	}
	var at uint32
	var current *chain
	for int(at) < len(entries) {
		target, next, err := entryTarget(l, entries[at:])
		if err != nil {
			return err
		}
		name := text(target[2:31])
		if hook, ok := starts[at]; ok {
			current = r.chain(chainID{l.family, table, chainName(at)})
			current.base, current.hook = true, hook
		}
		switch {
		case policies[at]: // not a rule
		case name == "ERROR": // begins the chain whose first rule follows
			if current != nil && !current.base && current.rules > 0 {
				current.rules-- // the RETURN that ends every user's chain
			}
			current = r.chain(chainID{l.family, table, chainName(at + next)})
		case current == nil:
			return errTorn
		default:
			current.addLegacyRule(l.family, name, target, at+next)
		}
		at += next
	}
	return nil
}

// entryTarget is the target of the entry that b begins with, and the entry's length.
func entryTarget(l *layout, b []byte) (target []byte, next uint32, err error) {
	if len(b) < l.entrySize {
		return nil, 0, errTorn
	}
	from := int(binary.NativeEndian.Uint16(b[l.targetOffset:]))
	to := int(binary.NativeEndian.Uint16(b[l.targetOffset+2:]))
	if from < l.entrySize || to > len(b) || to-from < targetSize {
		return nil, 0, errTorn
	}
	return b[from:to], uint32(to), nil //nolint:gosec // 16 bits
}

func (c *chain) addLegacyRule(family, name string, target []byte, following uint32) {
	c.rules++
	info := target[targetSize:]
	if name != "" {
		c.addTarget(family, name, uint32(target[31]), info)
		return
	}
	if len(info) < 4 { // the standard target: a verdict, or the offset of a chain
		return
	}
	verdict := binary.NativeEndian.Uint32(info)
	if int32(verdict) >= 0 && verdict != following { //nolint:gosec // reinterpreted on purpose
		c.jumps = append(c.jumps, chainName(verdict))
	}
}

func chainName(offset uint32) string { return strconv.FormatUint(uint64(offset), 10) }
