/* SPDX-License-Identifier: GPL-2.0 */
/* The flight recorder's memory: what the programs of this folder share with each other and, in place, with Go (ring.go).
 * All integers are in host byte order unless said otherwise, all times are bpf_ktime_get_ns().
 */
#pragma once
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

/* Enough for the longest path of one node (socket to socket through two pods and a bridge is 10) and one retransmission of it. */
#define MAX_STAMPS 23
#define HEAD_BYTES 1024 /* captured of one message at most */

/* Hook numbers: journey.Hook in Go. */
enum hook {
	HOOK_OUTPUT = 1,
	HOOK_POSTROUTING = 2,
	HOOK_EGRESS = 3,
	HOOK_INGRESS = 4,
	HOOK_FORWARD = 5,
	HOOK_INPUT = 6,
	HOOK_DELIVERED = 7,
	HOOK_RETRANSMIT = 8,
	HOOK_DROP = 9,
	HOOK_RESET = 10,
};

/* What the recorder could not keep. Index of the per-CPU array `losses`; Go names them in losses.go. */
enum loss {
	LOSS_RING_LIVE,	     /* the ring was full of unfinished flights: one was overwritten */
	LOSS_INDEX_FULL,     /* an unfinished flight lost its index entry to a newer one */
	LOSS_SOCKET_FULL,    /* a socket lost its state to another one: its next write may not start a flight */
	LOSS_STAMPS_FULL,    /* a flight met more hooks than its record holds */
	LOSS_RAW_BUDGET,     /* a message of a chatty connection that is not HTTP was not recorded */
	LOSS_COALESCED,	     /* a message never stood at the start of a segment */
	LOSS_NONLINEAR,	     /* TCP header outside the linear part */
	LOSS_AMBIGUOUS,	     /* sequence and live record agreed, ports or acknowledgement did not */
	LOSS_HEAD_COPY,	     /* first bytes could not be copied */
	LOSS_UNKNOWN_SOCKET, /* a write on a socket first seen in the middle of a message */
	LOSS_CONT_LIMIT,     /* a head in more pieces than are recorded */
	LOSS_MAX,
};

enum flight_flag {
	FLIGHT_IPV6 = 1 << 0,
	FLIGHT_SYN = 1 << 1,	 /* a connection's first packet, no payload */
	FLIGHT_CONT = 1 << 2,	 /* goes on with the head that `prev` began */
	FLIGHT_HTTP = 1 << 3,	 /* first bytes look like an HTTP/1 message */
	FLIGHT_OPAQUE = 1 << 4,	 /* first bytes are a TLS record */
	FLIGHT_HEAD_END = 1 << 5, /* the captured bytes end with an empty line, or HEAD_BYTES are full */
	FLIGHT_RESET = 1 << 6,	 /* the connection was reset while this was its latest flight */
	FLIGHT_CLOSE = 1 << 8,	 /* no message: the sending socket is closed */
	FLIGHT_RECV_IPV6 = 1 << 7, /* the receiving socket is an IPv6 one */
} __attribute__((packed)); /* 2 bytes */

struct stamp {
	u32 delta; /* ns since start_ns, saturating at 4.29 s */
	u32 place; /* hook:4, low 14 bits of the netns inode number, low 14 bits of ifindex */
};

/* One application message. Written by whoever sees it next, read in place by Go when it is final. In lines of 64 bytes, by who
 * uses them together: a stamp touches the first and one of the next three. */
struct flight {
	u64 id; /* serial from 1; 0 while being written */
	u64 start_ns;
	u64 recv_ns;   /* first byte was read; 0: not yet */
	u32 seq;       /* of the first byte */
	u32 end;       /* exclusive; grows with each write of the burst */
	u32 recv_upto; /* exclusive; sequence read so far */
	u32 ack;
	u32 nstamps;
	enum flight_flag flags;
	u16 watched;		    /* Go's: not 0 while it waits for the rest of a long message, whose record stays so long */
	u32 head_pos;		    /* position in `heads`, counts up without end */
	u16 head_len;		    /* bytes captured of this flight */
	u16 head_total;		    /* captured of the message: with the flights it continues */
	u16 send_port, send_peer; /* as the sending socket sees its own and its peer's port */
	u16 recv_port, recv_peer;

	struct stamp stamps[MAX_STAMPS];
	u32 drop_reason;
	u32 retransmits;

	u64 send_ns; /* last write of the message returned; 0: not yet */
	u64 send_sk; /* sock_id: identity of an end while the connection lives */
	u32 send_pid, send_tid;
	u32 send_netns; /* inode number */
	u32 prev;	/* low 32 bits of the id of the flight before it on this socket, 0: none known */
	u8 send_addr[16], send_paddr[16]; /* network byte order, IPv4 in the first 4 bytes */

	u64 recv_end_ns; /* latest read of this message */
	u64 recv_sk;
	u32 recv_pid, recv_tid;
	u32 recv_netns;
	u32 pad;
	u8 recv_addr[16], recv_paddr[16];
};
_Static_assert(sizeof(struct flight) == 6 * 64, "a flight is six cache lines");

/* State of one sending or receiving socket. */
struct socket {
	u64 sk;
	u32 next;    /* end of the last write: where the next one starts */
	u32 pend;    /* start of a write that was queued, not sent */
	u32 out_id;  /* low 32 bits of the latest flight sent */
	u32 in_id;   /* low 32 bits of the latest flight read */
	u32 flags;   /* SOCKET_* */
	u32 raw_run; /* flights in a row that were neither HTTP nor TLS */
};
#define SOCKET_TURNED 1 /* something was read since the last flight started, or nothing was ever sent */
#define SOCKET_PEND 2	/* pend is valid */

#define SOCKET_WAYS 4
struct socket_set {
	struct socket s[SOCKET_WAYS];
};

#define INDEX_WAYS 8
/* One cache line. An entry is id << 32 | sequence; 0 is free. */
struct index_set {
	u64 e[INDEX_WAYS];
};

/* Control block, mapped by Go. Lines are apart so that the counters do not evict the switch. */
struct control {
	u32 enabled; /* 0: programs return at once */
	u32 pad0[15];
	u64 next_id; /* flights claimed so far */
	u64 pad1[7];
	u32 head_pos; /* bytes of `heads` claimed so far */
	u32 pad2[15];
};

/* Sizes, set before load to fit the maps' (powers of two). */
const volatile u32 ring_mask = 0;
const volatile u32 index_mask = 0;
const volatile u32 sockets_mask = 0;
const volatile u64 live_ns = 1000000000; /* an unfinished flight this young is not overwritten if another slot is near */
const volatile u32 start_at_tc = 0;	 /* no netfilter links here: tc egress starts flights */

/* control block; one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct control);
} mw_control SEC(".maps");

/* id & ring_mask → flight. Claimed by whoever starts a flight; nobody deletes; when full the oldest finished one is overwritten. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set before load */
	__type(key, u32);
	__type(value, struct flight);
} mw_flights SEC(".maps");

/* One entry: a ring of captured bytes, HEAD_BYTES longer than HEADS_SIZE so that a copy never wraps. */
#define HEADS_SIZE (4 << 20) /* 300 ms of 40,000 heads a second: unread ones are copied after 50 ms */
struct heads {
	u8 b[HEADS_SIZE + HEAD_BYTES];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct heads);
} mw_heads SEC(".maps");

/* hash(sequence) → unfinished flights that start there. Deleted by the first read; when a set is full the oldest goes, counted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* for its alignment: other arrays' values begin 8 bytes before a line */
	__uint(max_entries, 1); /* set before load */
	__type(key, u32);
	__type(value, struct index_set);
} mw_index SEC(".maps");

/* hash(sock_id) → state. Created when a connection opens or is first seen, deleted when it closes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* for its alignment: other arrays' values begin 8 bytes before a line */
	__uint(max_entries, 1); /* set before load */
	__type(key, u32);
	__type(value, struct socket_set);
} mw_sockets SEC(".maps");

/* enum loss → count. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOSS_MAX);
	__type(key, enum loss);
	__type(value, u64);
} mw_losses SEC(".maps");

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym;
#define CAST(p, type) ((type *)bpf_rdonly_cast((const void *)(p), bpf_core_type_id_kernel(type)))

static __always_inline void lose(enum loss reason)
{
	u64 *n = bpf_map_lookup_elem(&mw_losses, &reason);

	if (n)
		(*n)++;
}

static __always_inline struct control *control(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&mw_control, &zero);
}

static __always_inline int enabled(void)
{
	struct control *c = control();

	return c && *(volatile u32 *)&c->enabled;
}

/* Identity of a socket as a number. The verifier refuses arithmetic on a kernel pointer but for its distance from another pointer:
 * the control block stays where it is. */
static __always_inline u64 sock_id(const struct sock *sk)
{
	struct control *c = control();

	return c ? (u64)sk - (u64)c : 0;
}

/* Signed distance between sequence numbers, right across the wrap. */
static __always_inline s32 seq_diff(u32 a, u32 b)
{
	return (s32)(a - b);
}

static __always_inline u32 hash32(u32 x)
{
	return (x * 0x9e3779b1u) >> 12; /* Fibonacci hashing; sequence numbers share their low bits more than their high ones */
}

static __always_inline u32 place(u32 hook, u32 netns, u32 ifindex)
{
	return hook << 28 | (netns & 0x3fff) << 14 | (ifindex & 0x3fff);
}

/* The record of a flight, if it has not been overwritten since. id is its low 32 bits. */
static __always_inline struct flight *flight_by_id(u32 id)
{
	u32 slot = id & ring_mask;
	struct flight *f = bpf_map_lookup_elem(&mw_flights, &slot);

	if (!f || (u32)f->id != id || !id)
		return 0;
	return f;
}

static __always_inline struct index_set *index_of(u32 seq)
{
	u32 i = hash32(seq) & index_mask;

	return bpf_map_lookup_elem(&mw_index, &i);
}

/* The unfinished flight that starts at seq. src and dst are the packet's ports: one of them survives any NAT. A set holds a
 * sequence number once. */
static __always_inline struct flight *index_find(u32 seq, u16 src, u16 dst, u64 **entry)
{
	struct index_set *set = index_of(seq);
	struct flight *f;
	u64 *hit = 0;

	if (!set)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < INDEX_WAYS; i++) {
		if ((u32)set->e[i] == seq) {
			hit = &set->e[i];
			break;
		}
	}
	if (!hit || !*hit)
		return 0;
	f = flight_by_id(*hit >> 32);
	if (!f || f->seq != seq)
		return 0;
	if (f->send_port != src && f->send_peer != dst) {
		lose(LOSS_AMBIGUOUS);
		return 0;
	}
	*entry = hit;
	return f;
}

static __always_inline void stamp_at(struct flight *f, u64 now, u32 where)
{
	u32 n = __sync_fetch_and_add(&f->nstamps, 1);
	u64 delta = now - f->start_ns;

	if (n >= MAX_STAMPS) {
		lose(LOSS_STAMPS_FULL);
		return;
	}
	f->stamps[n].place = where;
	f->stamps[n].delta = delta > 0xffffffffu ? 0xffffffffu : delta;
}

static __always_inline struct socket_set *sockets_of(u64 sk)
{
	u32 i = hash32((u32)(sk >> 6)) & sockets_mask;

	return bpf_map_lookup_elem(&mw_sockets, &i);
}

static __always_inline struct socket *socket_find(u64 sk)
{
	struct socket_set *set = sockets_of(sk);

	if (!set)
		return 0;
	for (int i = 0; i < SOCKET_WAYS; i++)
		if (set->s[i].sk == sk)
			return &set->s[i];
	return 0;
}

/* A fresh state for sk, in place of a free, its own or the less recently used one. */
static __always_inline struct socket *socket_make(u64 sk, u32 next)
{
	struct socket_set *set = sockets_of(sk);
	struct socket *s;

	if (!set)
		return 0;
	s = &set->s[0];
	for (int i = 0; i < SOCKET_WAYS; i++) {
		if (set->s[i].sk == sk || !set->s[i].sk) {
			s = &set->s[i];
			break;
		}
		if (seq_diff(set->s[i].out_id, s->out_id) < 0)
			s = &set->s[i];
	}
	if (s->sk && s->sk != sk)
		lose(LOSS_SOCKET_FULL);
	s->sk = sk;
	s->next = next;
	s->out_id = 0;
	s->in_id = 0;
	s->raw_run = 0;
	s->flags = SOCKET_TURNED;
	return s;
}
