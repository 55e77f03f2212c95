// Package netpath is this node's datapath: network namespaces, links, veth peers, bridges and NAT. It says where to attach
// and what a (netns, ifindex, hook) is called. It owns netlink and the entering of namespaces.
//
// Watch (or Scan, once) reads the kernel and makes a State, an immutable value; all questions are pure functions of it:
// Hop, Describe, Resolve, AttachPoints, Table.
//
// What is not seen: a namespace held by nothing but a file descriptor or a socket (no process in it, no mount), one that
// only a thread and not its process is in, and the mounts of a foreign mount namespace other than pid 1's.
//
// Reading changes nothing, with one exception: asking for nftables' generation makes the kernel load nf_tables where it is
// a module. Legacy iptables tables are only read where they exist, since asking for one creates it.
package netpath
