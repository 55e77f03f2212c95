package netpath

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Rules are read by two dumps for the whole namespace, not by a request for each chain (a node with kube-proxy has
// thousands), and of a rule only its chain, its jumps and its redirects are decoded.

const (
	nfgenmsgSize = 4 // linux/netfilter/nfnetlink.h struct nfgenmsg
	nftMsg       = unix.NFNL_SUBSYS_NFTABLES << 8
)

// The attributes that x/sys does not name (linux/netfilter/nf_tables.h).
const (
	nftaTProxyRegPort = 3
	nftGoto           = 0xfffffffc // NFT_GOTO -4
	nftJump           = 0xfffffffd // NFT_JUMP -3
)

// errNoNFTables says that the kernel has no nf_tables: no rules, and no fault.
var errNoNFTables = errors.New("no nf_tables in this kernel")

// readNFT reads the nf_tables rules of the namespace that the calling thread is in.
func readNFT() (*ruleset, error) {
	set := newRuleset("nft")
	if err := nftDump(unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, set.addNFTChain); err != nil {
		return set, fmt.Errorf("list nftables chains: %w", err)
	}
	if len(set.chains) == 0 {
		return set, nil
	}
	if err := nftDump(unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, set.addNFTRule); err != nil {
		return set, fmt.Errorf("list nftables rules: %w", err)
	}
	return set, nil
}

func nftDump(get, reply uint16, each func(msg []byte)) error {
	req := nl.NewNetlinkRequest(int(nftMsg|get), unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_UNSPEC})
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, nftMsg|reply, func(msg []byte) bool {
		each(msg)
		return true
	})
	switch {
	case errors.Is(err, netlink.ErrDumpInterrupted): // the generation changed, so it is read again
		return nil
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return errNoNFTables
	}
	return err
}

var nftFamilies = map[uint8]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_BRIDGE: "bridge",
}

// nftChainID is whose chain a message is about; false for families without the five hooks (arp, netdev).
func nftChainID(msg []byte, tableAttr, chainAttr uint16) (chainID, []byte, bool) {
	if len(msg) < nfgenmsgSize {
		return chainID{}, nil, false
	}
	family, ok := nftFamilies[msg[0]]
	attrs := msg[nfgenmsgSize:]
	return chainID{family, text(attribute(attrs, tableAttr)), text(attribute(attrs, chainAttr))}, attrs, ok
}

// addNFTChain takes an NFT_MSG_NEWCHAIN.
func (r *ruleset) addNFTChain(msg []byte) {
	id, attrs, ok := nftChainID(msg, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME)
	if !ok {
		return
	}
	c := r.chain(id)
	if hook := attribute(attrs, unix.NFTA_CHAIN_HOOK); hook != nil {
		if n, ok := be32(attribute(hook, unix.NFTA_HOOK_HOOKNUM)); ok {
			c.base, c.hook = true, n
		}
	}
}

// addNFTRule takes an NFT_MSG_NEWRULE.
func (r *ruleset) addNFTRule(msg []byte) {
	id, attrs, ok := nftChainID(msg, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN)
	if !ok {
		return
	}
	c := r.chain(id)
	c.rules++
	var registers nftRegisters
	for kind, elem := range attributes(attribute(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
		if kind == unix.NFTA_LIST_ELEM {
			c.addNFTExpr(&registers, id.family, text(attribute(elem, unix.NFTA_EXPR_NAME)), attribute(elem, unix.NFTA_EXPR_DATA))
		}
	}
}

// nftRegisters are the ports that a rule has loaded, by register (NFT_REG32_15 is 23).
type nftRegisters [24]uint16

func (c *chain) addNFTExpr(regs *nftRegisters, family, name string, data []byte) {
	switch name {
	case "immediate":
		value := attribute(data, unix.NFTA_IMMEDIATE_DATA)
		if verdict := attribute(value, unix.NFTA_DATA_VERDICT); verdict != nil {
			c.addNFTVerdict(verdict)
			return
		}
		reg, ok := be32(attribute(data, unix.NFTA_IMMEDIATE_DREG))
		if v := attribute(value, unix.NFTA_DATA_VALUE); ok && len(v) >= 2 && reg < uint32(len(regs)) {
			regs[reg] = binary.BigEndian.Uint16(v)
		}
	case "redir":
		c.addRegister(regs, attribute(data, unix.NFTA_REDIR_REG_PROTO_MIN))
	case "tproxy":
		c.addRegister(regs, attribute(data, nftaTProxyRegPort))
	case "target":
		rev, _ := be32(attribute(data, unix.NFTA_TARGET_REV))
		c.addTarget(family, text(attribute(data, unix.NFTA_TARGET_NAME)), rev, attribute(data, unix.NFTA_TARGET_INFO))
	}
}

func (c *chain) addNFTVerdict(verdict []byte) {
	code, ok := be32(attribute(verdict, unix.NFTA_VERDICT_CODE))
	if ok && (code == nftJump || code == nftGoto) {
		c.jumps = append(c.jumps, text(attribute(verdict, unix.NFTA_VERDICT_CHAIN)))
	}
}

func (c *chain) addRegister(regs *nftRegisters, number []byte) {
	if reg, ok := be32(number); ok && reg < uint32(len(regs)) && regs[reg] != 0 {
		c.redirects = append(c.redirects, regs[reg])
	}
}
