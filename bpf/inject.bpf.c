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

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

#define PORTS 4		/* that one namespace's rules redirect to */
#define SYNS 4096	/* connections that open at a time */
#define HEAD_LIMIT 8192 /* bytes of a head that are looked at */
/* The kernel takes this much of a write whatever state its memory is in (tcp_wmem's least). A line that lies within has gone out whenever
 * a write is cut short, so that the count that the writer is told is right. */
#define LINE_LIMIT 3072
#define BODY_LIMIT (1 << 30) /* sequence numbers tell no more apart */
#define METHODS 7
#define FIELDS 8 /* whose presence means that there is an id */

/* What became of requests and connections. Index of the per-CPU array `mw_injections`; Go names them in inject.go. */
enum outcome {
	OUTCOME_CONNECTION,   /* a connection to the own sidecar was opened */
	OUTCOME_INJECTED,     /* a request was given an id */
	OUTCOME_HAS_ID,	      /* a request has one */
	OUTCOME_BUSY,	      /* bytes before the request were not sent yet, or the socket is closing: it has none */
	OUTCOME_LONG_LINE,    /* a request line longer than LINE_LIMIT: it has none */
	OUTCOME_NO_MEMORY,    /* the kernel had no memory for it: it has none */
	OUTCOME_NOT_HTTP,     /* from here on, the connection is left alone: it does not begin as a request of HTTP/1 */
	OUTCOME_ODD_HEAD,     /* a head that not everybody reads alike */
	OUTCOME_SPLIT_HEAD,   /* a head that is not whole in one write */
	OUTCOME_LONG_HEAD,    /* a head longer than HEAD_LIMIT */
	OUTCOME_BODY_UNKNOWN, /* a body whose end is not known */
	OUTCOME_PIPELINED,    /* a write goes on behind its first request */
	OUTCOME_TUNNEL,	      /* CONNECT, or an upgrade */
	OUTCOME_LOST_TRACK,   /* bytes were written past the end of a request */
	OUTCOME_BLOCKING,     /* of a connection to the own sidecar: reads of its socket wait in the kernel */
	OUTCOME_REFUSED,      /* the kernel does not take it: there are too many, or another program has it */
	OUTCOME_MAX,
};

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

/* Hashes of words, set before load. */
const volatile u64 id_fields[FIELDS] = {};

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

	if (s->netns != netns || s->seq != seq || s->ack != ack || !sk || tp->is_mptcp || tp->write_seq != seq)
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

/* Hashes of words that are looked for: word_hash in inject.go, which checks them. Names of fields in lower case. */
#define WORD_START 0xcbf29ce484222325ULL /* FNV-1a */
#define WORD_PRIME 0x100000001b3ULL

const volatile u64 methods[METHODS] = {}; /* but CONNECT, and TRACE, which sends the head back */
const volatile u64 word_connect = 0, word_http10 = 0, word_http11 = 0, word_length = 0, word_coding = 0, word_upgrade = 0;

static __always_inline void word(struct scan *s, u8 b)
{
	s->hash = (s->hash ^ b) * WORD_PRIME;
	s->word++;
}

static __always_inline void word_begins(struct scan *s, enum part part)
{
	s->hash = WORD_START;
	s->word = 0;
	s->part = part;
}

/* Letters, digits and !#$%&'*+-.^_`|~, RFC 9110 5.6.2. */
static __always_inline int is_token(u8 b)
{
	return b < 64 ? 0x03ff6cfa00000000ULL >> b & 1 : b < 128 && 0x57ffffffc7fffffeULL >> (b - 64) & 1;
}

static __always_inline int known_method(u64 hash)
{
	for (int i = 0; i < METHODS; i++)
		if (methods[i] == hash)
			return 1;
	return 0;
}

static __always_inline long wrong(struct scan *s, enum outcome why)
{
	s->wrong = why;
	return 1;
}

/* The request line's next byte. 1: no more is looked at. */
static __always_inline long line_byte(struct scan *s, u8 b, u32 i)
{
	switch (s->part) {
	case PART_METHOD:
		if (b != ' ') {
			if (b < 'A' || b > 'Z' || s->word == 8)
				return wrong(s, OUTCOME_NOT_HTTP);
			word(s, b);
			return 0;
		}
		if (s->hash == word_connect)
			return wrong(s, OUTCOME_TUNNEL);
		if (!known_method(s->hash))
			return wrong(s, OUTCOME_NOT_HTTP);
		word_begins(s, PART_TARGET);
		return 0;
	case PART_TARGET:
		if (b > ' ' && b < 0x7f) {
			s->word++;
			return 0;
		}
		if (b != ' ' || !s->word)
			return wrong(s, OUTCOME_ODD_HEAD);
		word_begins(s, PART_VERSION);
		return 0;
	case PART_VERSION:
		if (b != '\r') {
			if (s->word == 8)
				return wrong(s, OUTCOME_ODD_HEAD);
			word(s, b);
			return 0;
		}
		if (s->hash != word_http11 && s->hash != word_http10)
			return wrong(s, OUTCOME_NOT_HTTP);
		s->part = PART_LINE_END;
		return 0;
	default:
		if (b != '\n')
			return wrong(s, OUTCOME_ODD_HEAD);
		s->line = i + 1;
		s->part = PART_NAME_START;
		return 0;
	}
}

/* A field's name has ended. */
static __noinline int name_ended(struct scan *s)
{
	u64 h = s->hash;

	s->is_length = h == word_length;
	for (int i = 0; i < FIELDS; i++)
		if (id_fields[i] == h)
			s->has_id = 1;
	if (h == word_upgrade) {
		s->tunnel = 1;
	} else if (h == word_length) {
		if (s->has_length)
			s->wrong = OUTCOME_ODD_HEAD;
		s->has_length = 1;
	} else if (h == word_coding) {
		s->wrong = OUTCOME_BODY_UNKNOWN;
	}
	word_begins(s, PART_VALUE);
	return 0;
}

/* A byte of Content-Length's value: digits between blanks. */
static __always_inline long length_byte(struct scan *s, u8 b)
{
	if (b == ' ' || b == '\t') {
		s->ended = s->word != 0;
		return 0;
	}
	if (b < '0' || b > '9' || s->ended || s->word == 10)
		return wrong(s, OUTCOME_ODD_HEAD);
	s->body = s->body * 10 + b - '0';
	s->word++;
	return 0;
}

/* A byte of the fields. */
static __always_inline long field_byte(struct scan *s, u8 b, u32 i)
{
	switch (s->part) {
	case PART_NAME_START:
		if (b == '\r') {
			s->part = PART_END;
			return 0;
		}
		word_begins(s, PART_NAME);
		/* fall through */
	case PART_NAME:
		if (b == ':' && s->word) {
			name_ended(s);
			return s->wrong != 0;
		}
		if (!is_token(b)) /* a blank: a line that goes on with the one before, or a name that some read as another */
			return wrong(s, OUTCOME_ODD_HEAD);
		word(s, b >= 'A' && b <= 'Z' ? b | 0x20 : b);
		return 0;
	case PART_VALUE:
		if (b == '\r') {
			if (s->is_length && !s->word)
				return wrong(s, OUTCOME_ODD_HEAD);
			s->part = PART_VALUE_END;
			return 0;
		}
		if ((b < ' ' && b != '\t') || b == 0x7f)
			return wrong(s, OUTCOME_ODD_HEAD);
		return s->is_length ? length_byte(s, b) : 0;
	default:
		if (b != '\n')
			return wrong(s, OUTCOME_ODD_HEAD);
		if (s->part == PART_END) {
			s->head = i + 1;
			return 1;
		}
		s->part = PART_NAME_START;
		return 0;
	}
}

struct scanning {
	struct sk_msg_md *ctx;
	struct scan *s;
};

/* Callback of bpf_loop; 1 ends it. */
static long scan_byte(u32 i, void *arg)
{
	const struct scanning *g = arg;
	const u8 *p = (const u8 *)g->ctx->data + (i & (HEAD_LIMIT - 1)), *end = g->ctx->data_end;
	struct scan *s = g->s;
	u8 b;

	if (p + 1 > end)
		return 1;
	b = *p;
	return s->part < PART_NAME_START ? line_byte(s, b, i) : field_byte(s, b, i);
}

/* Looks at the head that the message begins with. The outcome is wrong, or head is set, or the head is not whole. */
static __noinline int scan_head(struct sk_msg_md *ctx, struct scan *s)
{
	struct scanning g = {.ctx = ctx, .s = s};
	u32 want = ctx->size < HEAD_LIMIT ? ctx->size : HEAD_LIMIT;

	__builtin_memset(s, 0, sizeof(*s));
	if (ctx->data + want > ctx->data_end && bpf_msg_pull_data(ctx, 0, want, 0)) {
		s->wrong = OUTCOME_NO_MEMORY;
		return 0;
	}
	word_begins(s, PART_METHOD);
	bpf_loop(want, scan_byte, &g, 0);
	return 0;
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
