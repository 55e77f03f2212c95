// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* An X-Request-ID line for requests that have none, from an app to its own sidecar (sock_ops on the node's cgroups and sk_msg on the
 * connections that it finds, Linux 6.3). Loaded only where the configuration asks for it.
 *
 * Which connections: when a SYN comes to a listening socket, on a port to which its namespace's rules redirect, its sequence number and
 * the answer's are noted. NAT keeps both, so a socket that opens a connection with these two numbers in the same namespace is the other end.
 *
 * Which bytes: a request is looked at only where the one before is known to end, and touched only if all of its head is in one write and
 * looks as RFC 9112 wants it. Where the next one begins is kept as a sequence number: bytes that were written and are not where they
 * should be are noticed, and end it for that connection.
 */
#include "c/inject.h"
#include "c/read.h"

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

#define PORTS 4		/* that one namespace's rules redirect to */
#define SYNS 4096	/* connections that open at a time */
/* The kernel takes this much of a write whatever state its memory is in (tcp_wmem's least). A line that lies within has gone out whenever
 * a write is cut short, so that the count that the writer is told is right. */
#define LINE_LIMIT 3072
#define BODY_LIMIT (1 << 30) /* sequence numbers tell no more apart */

/* What of a namespace's rules matters. */
struct pod {
	u16 ports[PORTS]; /* redirected to, 0: none */
};

/* A SYN that came to a port of a pod. */
struct syn {
	u32 netns;
	u32 seq; /* of the first byte that its sender will send */
	u32 ack; /* of the first that it will receive */
	u32 pad;
};

/* Inode number of a network namespace → its rules. Written by Go, who deletes what is not wanted any more. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct pod);
} mw_pods SEC(".maps");

/* Socket cookie → socket, on which mw_msg runs. Written when a connection to the own sidecar opens; the kernel takes out what closes.
 * When full, counted, a connection is left alone. 16 B each.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 32768);
	__type(key, u64);
	__type(value, u64);
} mw_sidecar SEC(".maps");

/* Cookies of sockets that are left alone, for Go to take out of mw_sidecar, which no program of this kind may do. When full the oldest
 * stays there until it closes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__type(value, u64);
} mw_left SEC(".maps");

/* enum outcome → count. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOME_MAX);
	__type(key, enum outcome);
	__type(value, u64);
} mw_injections SEC(".maps");

/* hash(sequence) → SYN. Overwritten: the connection is left alone, as is one whose entry is being written. */
struct syn mw_syns[SYNS] SHARED(mw_syns) = {};

static void count(enum outcome what)
{
	u64 *n = bpf_map_lookup_elem(&mw_injections, &what);

	if (n)
		(*n)++;
}

static __always_inline int injecting(void)
{
	return *(volatile u32 *)&mw_control.inject;
}

static __always_inline u32 netns_of(const struct sock *sk)
{
	return sk->__sk_common.skc_net.net->ns.inum;
}

static __always_inline struct syn *syn_at(u32 seq)
{
	return &mw_syns[hash32(seq) >> 20 & (SYNS - 1)];
}

/* A SYN has come to a listening socket. req is the request socket: of its fields those of struct sock_common are set. */
static __noinline int syn_came(const struct sock *req)
{
	const struct tcp_request_sock *r = CAST(req, struct tcp_request_sock);
	u32 netns = netns_of(req);
	struct pod *pod = bpf_map_lookup_elem(&mw_pods, &netns);
	u16 port = req->__sk_common.skc_num;
	struct syn *s;

	if (!pod)
		return 0;
	for (int i = 0; i < PORTS; i++) {
		if (port && pod->ports[i] == port) {
			s = syn_at(r->rcv_isn + 1);
			s->netns = netns;
			s->seq = r->rcv_isn + 1;
			s->ack = r->snt_isn + 1;
			return 0;
		}
	}
	return 0;
}

/* Whether calls of a socket wait in the kernel. A read of one in a sockhash that a signal interrupts returns EAGAIN, where it would go on,
 * or return EINTR, without (tcp_bpf_recvmsg): who does not wait knows EAGAIN.
 */
static __always_inline int blocks(const struct sock *sk)
{
	return !(sk->sk_socket->file->f_flags & O_NONBLOCK);
}

/* A socket that opened a connection is connected. */
static __noinline int connected(struct bpf_sock_ops *ctx)
{
	const struct bpf_sock_ops_kern *kern = bpf_cast_to_kern_ctx(ctx);
	const struct tcp_sock *tp = CAST(kern->sk, struct tcp_sock);
	u32 netns = netns_of(kern->sk), seq = ctx->snd_una, ack = ctx->rcv_nxt;
	struct bpf_sock *sk = ctx->sk;
	const struct syn *s = syn_at(seq);
	struct conn *c;

	if (s->netns != netns || s->seq != seq || s->ack != ack || !sk || is_mptcp(kern->sk) || tp->write_seq != seq)
		return 0;
	if (!bpf_map_lookup_elem(&mw_pods, &netns))
		return 0;
	if (blocks(kern->sk)) {
		count(OUTCOME_BLOCKING);
		return 0;
	}
	c = bpf_sk_storage_get(&mw_conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return 0;
	c->next = seq;
	c->netns = netns;
	c->cookie = bpf_get_socket_cookie(ctx);
	count(bpf_sock_hash_update(ctx, &mw_sidecar, &c->cookie, BPF_ANY) ? OUTCOME_REFUSED : OUTCOME_CONNECTION);
	return 0;
}

/* Replies are left as they are: they are other programs'. */
SEC("sockops")
int mw_open(struct bpf_sock_ops *ctx)
{
	if (!injecting())
		return 1;
	if (ctx->op == BPF_SOCK_OPS_RWND_INIT && !ctx->is_fullsock)
		syn_came(((struct bpf_sock_ops_kern *)bpf_cast_to_kern_ctx(ctx))->sk);
	else if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		connected(ctx);
	return 1;
}

/* "X-Request-ID: " and a UUID of version 4, in lower case. Its digit at 14 stays a 4, in whose place Envoy puts what it decides of traces. */
static __noinline int make_line(u8 *to)
{
	static const char hex[] = "0123456789abcdef";
	u32 bits[4];

	for (int i = 0; i < 4; i++)
		bits[i] = bpf_get_prandom_u32();
	bits[1] = (bits[1] & 0xffff0fff) | 0x4000;
	bits[2] = (bits[2] & 0x3fffffff) | 0x80000000;
	__builtin_memcpy(to, "X-Request-ID: ", 14);
	to += 14;
#pragma clang loop unroll(full)
	for (int i = 0; i < 32; i++) {
		if (i == 8 || i == 12 || i == 16 || i == 20)
			*to++ = '-';
		*to++ = hex[bits[i / 8] >> (28 - i % 8 * 4) & 15];
	}
	to[0] = '\r';
	to[1] = '\n';
	return 0;
}

enum inserted {
	INSERTED_NOT, /* the message is as it was */
	INSERTED,
	INSERTED_BROKEN, /* the message is neither as it was nor as it should be */
};

/* Puts a line behind the first `line` bytes, which are in the message's first piece. The kernel would send the line and what is on its two
 * sides in a segment each, so they are made one piece again: without memory for that they stay three.
 */
static __noinline int insert_line(struct sk_msg_md *ctx, u32 line)
{
	u8 text[INJECTED_BYTES + 4];
	u8 *to;

	make_line(text);
	if (bpf_msg_push_data(ctx, line, INJECTED_BYTES, 0))
		return INSERTED_NOT;
	bpf_msg_pull_data(ctx, line, line + INJECTED_BYTES, 0); /* only has data point there */
	to = ctx->data;
	if (to + INJECTED_BYTES > (u8 *)ctx->data_end)
		return bpf_msg_pop_data(ctx, line, INJECTED_BYTES, 0) ? INSERTED_BROKEN : INSERTED_NOT;
	__builtin_memcpy(to, text, INJECTED_BYTES);
	bpf_msg_pull_data(ctx, 0, line + INJECTED_BYTES + 1, 0);
	return INSERTED;
}

/* Leaves a connection alone from now on. */
static __noinline int leave_alone(struct conn *c)
{
	c->done = 1;
	bpf_map_push_elem(&mw_left, &c->cookie, BPF_EXIST);
	return SK_PASS;
}

static __always_inline int leave(struct conn *c, enum outcome why)
{
	count(why);
	return leave_alone(c);
}

/* Whether the kernel takes the first LINE_LIMIT bytes of what is written now: nothing waits in front of it, and the socket is open. Else
 * the writer could be told a number of bytes that is wrong by the line.
 */
static __always_inline int takes_all(const struct sock *sk, const struct tcp_sock *tp)
{
	return sk->__sk_common.skc_state == TCP_ESTABLISHED && !sk->sk_err && !sk->sk_shutdown && tp->snd_nxt == tp->write_seq &&
	       !CAST(sk, struct inet_connection_sock)->icsk_ulp_ops;
}

/* A request of which all is known. Returns by how much it grew; less than 0: it cannot be sent. */
static __noinline int request(struct sk_msg_md *ctx, struct scan *s)
{
	const struct sock *sk = ((struct sk_msg *)bpf_cast_to_kern_ctx(ctx))->sk;
	int done;

	if (s->has_id) {
		count(OUTCOME_HAS_ID);
		return 0;
	}
	if (s->line > LINE_LIMIT) {
		count(OUTCOME_LONG_LINE);
		return 0;
	}
	if (!takes_all(sk, CAST(sk, struct tcp_sock))) {
		count(OUTCOME_BUSY);
		return 0;
	}
	done = insert_line(ctx, s->line);
	count(done == INSERTED ? OUTCOME_INJECTED : OUTCOME_NO_MEMORY);
	return done == INSERTED ? INJECTED_BYTES : done == INSERTED_NOT ? 0 : -1;
}

/* A write on a connection to the own sidecar, with the socket locked, before any of it is sent. */
SEC("sk_msg")
int mw_msg(struct sk_msg_md *ctx)
{
	u32 at, size = ctx->size;
	struct conn *c;
	struct scan *s;
	int more;

	if (!ctx->sk)
		return SK_PASS;
	c = bpf_sk_storage_get(&mw_conns, ctx->sk, 0, 0);
	if (!c || c->done)
		return SK_PASS;
	if (!injecting() || !bpf_map_lookup_elem(&mw_pods, &c->netns))
		return leave_alone(c);
	at = CAST(((struct sk_msg *)bpf_cast_to_kern_ctx(ctx))->sk, struct tcp_sock)->write_seq;
	if (at != c->next)
		return seq_diff(at, c->next) < 0 ? SK_PASS : leave(c, OUTCOME_LOST_TRACK); /* a body, or no longer one */
	s = &c->scan;
	scan_head(ctx, s);
	if (s->wrong || !s->head)
		return leave(c, s->wrong ?: size > HEAD_LIMIT ? OUTCOME_LONG_HEAD : OUTCOME_SPLIT_HEAD);
	if (s->body > BODY_LIMIT)
		return leave(c, OUTCOME_BODY_UNKNOWN);
	more = request(ctx, s);
	if (more < 0) {
		leave_alone(c);
		return SK_DROP;
	}
	c->added = more != 0;
	c->at = at;
	c->next = at + s->head + more + (u32)s->body;
	if (s->tunnel)
		return leave(c, OUTCOME_TUNNEL);
	if (size > s->head + (u32)s->body)
		return leave(c, OUTCOME_PIPELINED);
	return SK_PASS;
}

char _license[] SEC("license") = "GPL";
