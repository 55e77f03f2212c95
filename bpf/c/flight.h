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
#define MAX_STAMPS 21
#define HEAD_BYTES 1024 /* captured of one message at most */
#define FRAMES_BYTES 32768 /* and of one write of HTTP/2, in which the heads of many messages may stand */

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
	LOSS_PLAIN_COPY,     /* plaintext that a TLS library was given could not be read */
	LOSS_PLAIN_TIE,	     /* plaintext of which the write, or its record, was not seen */
	LOSS_PLAIN_THREADS,  /* a thread in a TLS library lost its place to another one */
	LOSS_PLAIN_OBJECTS,  /* a connection of HTTP/2 over TLS, written to within the last minute, lost its place to another one */
	LOSS_GO,	     /* a request of Go's net/http: in whose goroutine it was made could not be noted, or not tied to it */
	LOSS_MPTCP,	     /* a connection of an MPTCP socket, once: nothing of it is recorded */
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
	FLIGHT_CLOSE = 1 << 8,	 /* no message: the sending socket is closed, or it talks to one of MPTCP */
	FLIGHT_RECV_IPV6 = 1 << 7, /* the receiving socket is an IPv6 one */
	FLIGHT_DROPPED = 1 << 10, /* drop_reason is this flight's */
	FLIGHT_DEEP = 1 << 9,	 /* full depth: it began at a netfilter hook, and every device stamps it */
	FLIGHT_FRAMES = 1 << 11, /* first bytes are HTTP/2's preface or a frame */
	FLIGHT_PLAIN = 1 << 12,	 /* a TLS record, and the captured bytes are its plaintext */
	FLIGHT_AWAITS = 1 << 13, /* a TLS record that a probed library has begun to read: its plaintext comes as a record with FLIGHT_TEXT */
	FLIGHT_TEXT = 1 << 14,	 /* no message: plaintext. Of the one that `prev` is, or more of it; or, if end is not seq, of a write from seq to end */
	FLIGHT_JOINED = 1 << 15, /* the plaintext is that of head_total writes of a TLS library, which waited for the window; 0: it came as FLIGHT_TEXT */
} __attribute__((packed)); /* 2 bytes */

struct stamp {
	u32 delta; /* ns since start_ns, saturating at 4.29 s */
	u32 place; /* hook:4, low 14 bits of the netns inode number, low 14 bits of ifindex */
};

/* One application message. Written by whoever sees it next, read in place by Go when it is final. In lines of 64 bytes, by who
 * uses them together: a start and the three stamps of edges write the first two, further stamps the one they fall in, the reader's
 * socket the first and the fifth; the last is for IPv6 alone. A line that is not written costs nothing, so what is not reset on
 * start is valid only when something else says so: the receiver's fields and recv_end_ns if recv_ns is not 0, stamps below nstamps,
 * addresses and drop_reason by flags.
 */
struct flight {
	u64 id; /* serial from 1; 0 while being written */
	u64 start_ns;
	u64 recv_ns;   /* first byte was read; 0: not yet. Written after the receiver's fields */
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
	u32 prev;		    /* low 32 bits of the id of the flight before it on this socket, 0: none known */

	u64 send_sk; /* sock_id: identity of an end while the connection lives */
	u64 send_ns; /* last write of the message returned; 0: not yet */
	u32 send_pid, send_tid;	    /* the latter with GOROUTINE (gohttp.h): not a thread's number */
	u32 send_netns;		    /* inode number */
	u32 send_addr4, send_paddr4; /* network byte order, as all addresses; without FLIGHT_IPV6 */
	u32 retransmits;
	struct stamp stamps[MAX_STAMPS];
	u32 drop_reason; /* with FLIGHT_DROPPED */
	u32 plain_len;	 /* with FLIGHT_PLAIN: bytes of plaintext in the write, of which the first head_len are captured; before: length of
			  * the last TLS record that begins in the first packet, where there are probes */

	u64 recv_end_ns; /* latest read of this message */
	u64 recv_sk;
	u32 recv_pid, recv_tid;
	u32 recv_netns;
	u16 recv_port, recv_peer;
	u32 recv_addr4, recv_paddr4; /* without FLIGHT_RECV_IPV6 */

	u8 send_addr[16], send_paddr[16]; /* with FLIGHT_IPV6; Go fills them in for IPv4, in the first 4 bytes */
	u8 recv_addr[16], recv_paddr[16]; /* with FLIGHT_RECV_IPV6 */
};
_Static_assert(sizeof(struct flight) == 6 * 64, "a flight is six cache lines");
_Static_assert(__builtin_offsetof(struct flight, send_sk) == 64, "a start writes two lines");
_Static_assert(__builtin_offsetof(struct flight, stamps[3]) == 2 * 64, "so do the stamps of edges");
_Static_assert(__builtin_offsetof(struct flight, recv_end_ns) >= 4 * 64, "the receiver has a line");
_Static_assert(__builtin_offsetof(struct flight, send_addr) == 5 * 64, "IPv6 addresses have a line");

/* State of one sending or receiving socket. Sender and receiver may write at the same time: no two of them share a word that is
 * read, changed and written back. */
struct socket {
	u64 sk;
	u32 next;    /* end of the last write: where the next one starts */
	u32 pend;    /* start of a write that was queued, not sent; if pending */
	u32 out_id;  /* low 32 bits of the latest flight sent */
	u32 out_seq; /* where it starts */
	u32 in_id;   /* low 32 bits of the latest flight read */
	u8 turned;   /* 0, 1: something was read since the last flight started, TURNED_NEW: or the state is new */
	u8 pending;
	u8 raw_run;  /* flights in a row that were not known to be HTTP or TLS when their write returned; at most RAW_FREE_RUN + 1 */
	u8 pieces;   /* of the head being sent, after the first */
};

#define TURNED_NEW 2

#define SOCKET_WAYS 4
struct socket_set {
	struct socket s[SOCKET_WAYS];
};

#define INDEX_WAYS 8
/* One cache line. An entry is id << 32 | sequence; 0 is free. */
struct index_set {
	u64 e[INDEX_WAYS];
};

/* Which functions of TLS libraries have probes, bits of control's tls. */
enum tls_probe {
	TLS_WRITES = 1,
	TLS_READS = 2,
	TLS_GO = 4, /* some are Go's */
};

/* Control block, mapped by Go. Lines are apart so that the counters do not evict the switch. */
struct control {
	u32 enabled;   /* 0: programs return at once */
	u32 deep;      /* not 0: some namespace is recorded in full depth, so devices look at what they forward */
	u32 excluding; /* not 0: some bit of mw_excluded is set */
	u32 since;     /* low 32 bits of the first id after it was last switched on */
	enum tls_probe tls; /* 0: there are no probes on TLS libraries */
	u32 go;	       /* 0: there are none on Go's net/http */
	u32 inject;	    /* not 0: request ids are put into requests that have none */
	u32 pad0[9];
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

/* The maps below are arrays of one value, which Go makes as large as it wants before load and which all programs share. The
 * programs address them directly, as data sections: no look-up, no check for null. Named after the section, see recorder.go.
 */
#define SHARED(name) __attribute__((aligned(64))) SEC(".data." #name)

/* The control block. */
struct control mw_control SHARED(mw_control) = {};

/* id & ring_mask → flight. Claimed by whoever starts a flight; nobody deletes; when full the oldest finished one is overwritten. */
struct flight mw_flights[1] SHARED(mw_flights) = {};

/* A ring of captured bytes, FRAMES_BYTES longer than HEADS_SIZE so that a copy never wraps. */
#define HEADS_SIZE (4 << 20) /* 300 ms of 40,000 heads a second: unread ones are copied after 50 ms */
u8 mw_heads[64] SHARED(mw_heads) = {};

/* hash(sequence) → unfinished flights that start there. Deleted by the first read; when a set is full the oldest goes, counted. */
struct index_set mw_index[1] SHARED(mw_index) = {};

/* hash(sock_id) → state. Created when a connection opens or is first seen, deleted when it closes. */
struct socket_set mw_sockets[1] SHARED(mw_sockets) = {};

/* A bit for the low 14 bits of each network namespace's inode number: no flight starts there. */
u64 mw_excluded[(1 << 14) / 64] SHARED(mw_excluded) = {};

/* enum loss → count. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOSS_MAX);
	__type(key, enum loss);
	__type(value, u64);
} mw_losses SEC(".maps");

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym;
#define CAST(p, type) ((type *)bpf_rdonly_cast((const void *)(p), bpf_core_type_id_kernel(type)))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Rare, so not in the way of what is usual: code that is fetched for nothing costs more than a call. */
static __noinline void lose(enum loss reason)
{
	u64 *n = bpf_map_lookup_elem(&mw_losses, &reason);

	if (n)
		(*n)++;
}

/* The compiler takes a data section for as large as it is declared: what is added to a pointer from here, it knows nothing of. */
static __always_inline void *section(void *start)
{
	asm volatile("" : "+r"(start));
	return start;
}

static __always_inline int enabled(void)
{
	return *(volatile u32 *)&mw_control.enabled;
}

static __always_inline int excluded(u32 netns)
{
	return unlikely(*(volatile u32 *)&mw_control.excluding) && mw_excluded[netns >> 6 & 0xff] >> (netns & 63) & 1;
}

static __always_inline u32 task_netns(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->nsproxy->net_ns->ns.inum;
}

/* Identity of a socket as a number. The verifier refuses arithmetic on a kernel pointer but for its distance from another pointer:
 * the control block stays where it is. */
static __always_inline u64 sock_id(const struct sock *sk)
{
	return (u64)sk - (u64)section(&mw_control);
}

/* Whether a TCP socket is MPTCP's, below the one that its program has: what that writes and reads is not seen here. One that a listener with
 * MPTCP accepted of a client without is a socket as others are, and the program's own.
 */
static __always_inline int is_mptcp(const struct sock *sk)
{
	const struct tcp_sock *tp = CAST(sk, struct tcp_sock);

	return bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp;
}

/* Signed distance between sequence numbers, right across the wrap. */
static __always_inline s32 seq_diff(u32 a, u32 b)
{
	return (s32)(a - b);
}

/* Fibonacci hashing: the upper bits are the good ones. */
static __always_inline u32 hash32(u32 x)
{
	return x * 0x9e3779b1u;
}

static __always_inline u32 place(u32 hook, u32 netns, u32 ifindex)
{
	return hook << 28 | (netns & 0x3fff) << 14 | (ifindex & 0x3fff);
}

static __always_inline struct flight *flight_slot(u32 id)
{
	return (struct flight *)section(mw_flights) + (id & ring_mask);
}

/* The record of a flight, if it has not been overwritten since. id is its low 32 bits. */
static __always_inline struct flight *flight_by_id(u32 id)
{
	struct flight *f = flight_slot(id);

	return id && (u32)f->id == id ? f : 0;
}

static __always_inline struct index_set *index_of(u32 hash)
{
	return (struct index_set *)section(mw_index) + (hash >> 12 & index_mask);
}

/* The entry of its set that a sequence number takes if it is free: most are found there at once. */
static __always_inline u64 *index_first(u32 seq)
{
	u32 hash = hash32(seq);

	return &index_of(hash)->e[hash >> 9 & (INDEX_WAYS - 1)];
}

/* The entry of the unfinished flight that starts at seq. A set holds a sequence number once. */
static __always_inline u64 *index_entry(u32 seq)
{
	struct index_set *set = index_of(hash32(seq));
	u64 *hit = index_first(seq);

	if (likely((u32)*hit == seq))
		return hit;
#pragma clang loop unroll(disable)
	for (int i = 0; i < INDEX_WAYS; i++)
		if ((u32)set->e[i] == seq)
			return &set->e[i];
	return 0;
}

/* The unfinished flight that starts at seq. src and dst are the packet's ports. One of them mostly survives NAT; where it had to change
 * both, as their pair was taken (nf_nat_core.c, get_unique_tuple), the flight's acknowledgement is at most `behind` less than ack.
 */
static __always_inline struct flight *index_find(u32 seq, u16 src, u16 dst, u32 ack, u32 behind, u64 **entry)
{
	u64 *hit = index_entry(seq);
	struct flight *f;

	if (!hit)
		return 0;
	f = flight_by_id(*hit >> 32);
	if (!f || f->seq != seq)
		return 0;
	if (unlikely(f->send_port != src && f->send_peer != dst && ack - f->ack > behind)) {
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

	if (unlikely(n >= MAX_STAMPS)) {
		lose(LOSS_STAMPS_FULL);
		return;
	}
	f->stamps[n].place = where;
	f->stamps[n].delta = delta > 0xffffffffu ? 0xffffffffu : delta;
}

static __always_inline struct socket_set *sockets_of(u32 hash)
{
	return (struct socket_set *)section(mw_sockets) + (hash >> 12 & sockets_mask);
}

/* Fetches a line that will be needed: several at a time cost hardly more than one, and a clock read waits for all of them. */
static __always_inline void touch(const void *line)
{
	(void)*(const volatile u64 *)line;
}

static __always_inline u32 socket_hash(u64 sk)
{
	return hash32((u32)(sk >> 6));
}

/* Where in its set a socket is looked for first. */
static __always_inline struct socket *socket_first(u64 sk)
{
	u32 hash = socket_hash(sk);

	return &sockets_of(hash)->s[hash >> 10 & (SOCKET_WAYS - 1)];
}

static __always_inline struct socket *socket_find(u64 sk)
{
	struct socket_set *set = sockets_of(socket_hash(sk));
	struct socket *s = socket_first(sk);

	if (likely(s->sk == sk))
		return s;
#pragma clang loop unroll(disable)
	for (int i = 0; i < SOCKET_WAYS; i++)
		if (set->s[i].sk == sk)
			return &set->s[i];
	return 0;
}
