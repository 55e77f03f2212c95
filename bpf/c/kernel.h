/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel types that the programs read, trimmed to the fields used. CO-RE relocates every access to the running kernel's
 * layout, so order and size here mean nothing. Nested anonymous unions of the kernel are flattened: relocation finds a
 * field by name. Constants name their header.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;
typedef u16 __u16;
typedef u32 __u32;
typedef u64 __u64;
typedef s32 __s32;
typedef s64 __s64;
typedef u8 __u8;
typedef u16 __be16;
typedef u32 __be32;
typedef u32 __wsum;
typedef u16 __sum16;

#define AF_INET 2	  /* linux/socket.h */
#define AF_INET6 10	  /* linux/socket.h */
#define IPPROTO_TCP 6	  /* linux/in.h */
#define MSG_PEEK 2	  /* linux/socket.h */
#define O_NONBLOCK 04000  /* asm-generic/fcntl.h */
#define EAGAIN 11	  /* asm-generic/errno-base.h */
#define TCP_ESTABLISHED 1 /* net/tcp_states.h */
#define TCP_SYN_SENT 2
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_NEW_SYN_RECV 12
#define RCV_SHUTDOWN 1	  /* net/sock.h */
#define NF_ACCEPT 1	  /* linux/netfilter.h */
#define NF_INET_FORWARD 2	  /* linux/netfilter.h */
#define NF_INET_POST_ROUTING 4
#define TCX_NEXT -1	  /* linux/bpf.h enum tcx_action_base */
#define TCP_FLAG_SYN 0x02 /* byte 13 of the TCP header, RFC 9293 */
#define TCP_FLAG_ACK 0x10

#define SK_DROP 0 /* linux/bpf.h enum sk_action */
#define SK_PASS 1

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_SOCKHASH = 18,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_SK_STORAGE = 24,
};

/* linux/bpf.h, the few that are used */
enum {
	BPF_SOCK_OPS_RWND_INIT = 2,
	BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB = 4,
};
#define BPF_ANY 0
#define BPF_EXIST 2
#define BPF_F_NO_PREALLOC 1
#define BPF_SK_STORAGE_GET_F_CREATE 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	u32 inum;
};
struct net {
	struct ns_common ns;
};
typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		u8 u6_addr8[16];
		u64 u6_addr64_unused[2];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	u16 skc_family;
	volatile u8 skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct file {
	unsigned int f_flags;
};
struct socket___kernel { /* struct socket: the recorder has one of its own */
	struct file *file;
};
struct sock {
	struct sock_common __sk_common;
	struct socket___kernel *sk_socket;
	u8 sk_shutdown;
	u16 sk_protocol;
	int sk_err;
};
struct tcp_sock {
	u32 write_seq;
	u32 copied_seq;
	u32 rcv_nxt;
	u32 snd_nxt;
	u32 packets_out;
	_Bool is_mptcp;
};
struct inet_connection_sock {
	const struct tcp_ulp_ops *icsk_ulp_ops; /* 0: no kernel TLS and the like */
};
struct tcp_request_sock {
	u32 rcv_isn;
	u32 snt_isn;
};
struct sk_msg {
	struct sock *sk;
};
struct bpf_sock_ops_kern {
	struct sock *sk;
};

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};
struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	unsigned int data_len;
	__be16 protocol;
	u16 network_header;
	unsigned int tail; /* sk_buff_data_t, an offset on 64-bit kernels */
	unsigned char *head;
	unsigned char *data;
	u64 tstamp; /* on the way out: when TCP sent the segment, CLOCK_MONOTONIC ns (skb_mstamp_ns); with pacing, when it may leave */
	int skb_iif;
	char cb[48];
	u8 tc_at_ingress : 1;
};
struct nsproxy {
	struct net *net_ns;
};
struct thread_struct {
	unsigned long fsbase;
};
struct task_struct {
	struct nsproxy *nsproxy;
	struct thread_struct thread;
};
struct nf_hook_state {
	u8 hook;
	u8 pf;
	struct net_device *in;
	struct net_device *out;
	struct net *net;
};
struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

#pragma clang attribute pop

/* Wire formats: fixed, so not relocated. Names are the kernel's, as bpf_rdonly_cast takes a kernel type. */
struct iphdr {
	u8 version_ihl; /* bit-fields in the kernel */
	u8 tos;
	__be16 tot_len; /* 0: BIG TCP */
	__be16 id;
	__be16 frag_off;
	u8 ttl;
	u8 protocol;
	__sum16 check;
	__be32 saddr;
	__be32 daddr;
};
struct ipv6hdr {
	__be32 version_flow;
	__be16 payload_len; /* 0: BIG TCP or a jumbogram */
	u8 nexthdr;
	u8 hop_limit;
};
struct tcphdr {
	__be16 source;
	__be16 dest;
	__be32 seq;
	__be32 ack_seq;
	u8 doff; /* in the upper four bits, words of 4 bytes */
	u8 flags;
	__be16 window;
};


/* Context of a uprobe program: registers of x86-64, asm/ptrace.h */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

/* Context of a tc program, up to the last field used. linux/bpf.h */
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
};
/* Context of a sock_ops program, up to the last field used. linux/bpf.h */
struct bpf_sock;
struct bpf_sock_ops {
	u32 op;
	u32 args[4];
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 is_fullsock;
	u32 snd_cwnd;
	u32 srtt_us;
	u32 bpf_sock_ops_cb_flags;
	u32 state;
	u32 rtt_min;
	u32 snd_ssthresh;
	u32 rcv_nxt;
	u32 snd_nxt;
	u32 snd_una;
	u32 mss_cache;
	u32 ecn_flags;
	u32 rate_delivered;
	u32 rate_interval_us;
	u32 packets_out;
	u32 retrans_out;
	u32 total_retrans;
	u32 segs_in;
	u32 data_segs_in;
	u32 segs_out;
	u32 data_segs_out;
	u32 lost_out;
	u32 sacked_out;
	u32 sk_txhash;
	u64 bytes_received;
	u64 bytes_acked;
	struct bpf_sock *sk;
};

/* Context of an sk_msg program. linux/bpf.h */
struct sk_msg_md {
	void *data; /* of the first piece of the message */
	void *data_end;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 size; /* of all pieces */
	struct bpf_sock *sk;
};
struct bpf_dynptr {
	u64 __opaque[2];
} __attribute__((aligned(8)));
