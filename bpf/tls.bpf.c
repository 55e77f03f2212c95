// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Plaintext where TLS libraries take it and give it (uprobe.multi, Linux 6.6): SSL_write and SSL_read and their _ex forms of OpenSSL and
 * BoringSSL, and crypto/tls's (*Conn).Write and Read of Go. x86-64: arguments are where its ABI, or Go's, has them.
 */
#include "c/frames.h"

/* In the namespaces that are left out of TLS probing nothing is copied: a bit for the low 14 bits of each one's inode number. */
u64 mw_tls_off[(1 << 14) / 64] SHARED(mw_tls_off) = {};

/* How much of a write is worth copying: a head, or HTTP/2's frames. object is the connection's; 0: it is a read. */
static __always_inline u32 plain_wanted(u64 object, const u8 *buf, struct write *w)
{
	u32 kind = kind_of(w->first), begins;
	struct object *o;

	if (!object)
		return kind == FLIGHT_FRAMES ? FRAMES_BYTES : HEAD_BYTES;
	begins = kind == FLIGHT_FRAMES && connection_begins(buf, w->num, w->first);
	o = object_at(object);
	if (o->object != object || begins) {
		if (kind != FLIGHT_FRAMES)
			return HEAD_BYTES;
		o->object = object;
		o->rest = 0;
		o->have = 0;
		o->start = 0;
		o->known = begins;
		w->of = o;
		w->at = (u32)w->first == PREFACE_START ? PREFACE : 0;
		return FRAMES_BYTES;
	}
	if (kind == FLIGHT_HTTP && !o->rest) { /* used again by another connection */
		o->object = 0;
		return HEAD_BYTES;
	}
	w->of = o;
	return frames_wanted(w);
}

/* Copies len bytes of plaintext into `heads`. 0: they cannot be read. */
static __always_inline u32 plain_copy(const void *buf, u32 len, u32 *pos)
{
	if (len - 1 >= FRAMES_BYTES) /* for the verifier */
		return 0;
	if (bpf_probe_read_user(claim_head(len, pos), len, buf)) {
		lose(LOSS_PLAIN_COPY);
		return 0;
	}
	return len;
}

/* Copies what is worth it of a write, or of a read. How many bytes, and where, or 0. */
static __always_inline u32 plain_capture(u64 object, const void *buf, struct write *w, u32 *pos)
{
	u32 len = plain_wanted(object, buf, w);

	len = plain_copy(buf, len < w->num ? len : w->num, pos);
	w->pos = *pos;
	w->copied = len;
	frames_follow(w);
	return len;
}

static __always_inline int first_bytes(u64 *first, const void *buf, u32 num)
{
	*first = 0;
	if (!bpf_probe_read_user(first, num < 8 ? num & 7 : 8, buf))
		return 1;
	lose(LOSS_PLAIN_COPY);
	return 0;
}

static __always_inline int thread_busy(const struct thread *t)
{
	u8 state = *(volatile u8 *)&t->state;

	return state == THREAD_BEGINS || state == THREAD_WRITES;
}

/* Makes a place that another thread had this one's. False: it is in use. */
static __noinline int thread_take(struct thread *t, u32 tid)
{
	u32 before = t->tid;

	if (thread_busy(t) || __sync_val_compare_and_swap(&t->tid, before, tid) != before)
		return 0;
	if (thread_busy(t)) { /* its thread came in between */
		__sync_val_compare_and_swap(&t->tid, tid, before);
		return 0;
	}
	t->state = THREAD_IDLE;
	t->object = 0;
	return 1;
}

/* The thread's place, or one that is made its; 0: there is none. */
static __noinline struct thread *thread_of(u32 tid)
{
	struct thread_set *set = threads_of(tid);
	struct thread *t = thread_find(tid);

	if (t)
		return t;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < THREAD_WAYS; i++) { /* from a place that follows from its number: others start elsewhere */
		t = &set->t[(tid + i) & (THREAD_WAYS - 1)];
		if (thread_take(t, tid))
			return t;
	}
	lose(LOSS_PLAIN_THREADS);
	return 0;
}

/* A library's connection in the calling process: Go's have the same addresses in each. User space has 47 bits of them. */
static __always_inline u64 object_of(u64 addr)
{
	return addr ^ (bpf_get_current_pid_tgid() >> 32) << 47;
}

/* Whether the calling process is left alone. */
static __always_inline int process_excluded(void)
{
	u32 netns = task_netns();

	return excluded(netns) || mw_tls_off[netns >> 6 & 0xff] >> (netns & 63) & 1;
}

/* Tells what a write begins with from what most others do. */
static __always_inline u32 begins_with(u64 first)
{
	return (u32)first ^ (u32)(first >> 32) * 0x9e3779b1;
}

/* The thread makes another call. Has the latest one not written all, then it will be made again. Not by Go, which waits within a call; and
 * not if something was written that was not tied: that was it.
 */
static __noinline int plain_stalls(struct thread *t)
{
	struct stalled *k = stalled_at(t->object);

	if (t->state != THREAD_WRITES && (t->state != THREAD_WROTE || !t->blocked))
		return 0;
	if (t->go || t->other) {
		lose(LOSS_PLAIN_TIE);
		return 0;
	}
	if (k->object && k->object != t->object)
		lose(LOSS_PLAIN_TIE);
	k->sk = t->sk;
	k->first = t->first;
	k->left = t->left;
	k->more_num = k->more_len = 0;
	k->len = t->len;
	k->num = t->before + t->num;
	k->tied = t->state == THREAD_WROTE || t->before;
	if (t->state == THREAD_WRITES && t->before) {
		k->num = t->before;
		k->more_num = t->num;
		k->more_len = t->len;
	} else if (t->state == THREAD_WRITES && t->more_len) {
		k->more_num = t->more_num;
		k->more_len = t->more_len;
	}
	k->object = t->object;
	return 0;
}

/* What is known of a call that is made again; 0: this one is not. */
static __always_inline struct stalled *plain_again(u64 object, u64 num, u32 first)
{
	struct stalled *k = stalled_at(object);

	if (k->object != object)
		return 0;
	if (k->first == first && k->num + k->more_num <= num)
		return k;
	k->object = 0;
	lose(LOSS_PLAIN_TIE);
	return 0;
}

/* A call is made again: the library writes what is left of what the first one had, and then what later ones had more. Captures both, or the
 * latter where the former is tied. How many bytes, or 0. Of more than one record, only the first was made when the call stalled: what later
 * ones had more begins within a record, of which nobody knows which it is. So it is left out, unless nothing is tied: then it is all one write.
 */
static __noinline u32 plain_more(struct thread *t, struct stalled *k, const void *buf, struct write *w, u32 *pos)
{
	u32 had = k->num + k->more_num, more_num = w->num - k->num, more_len = k->more_len, len;
	struct write more = {.num = w->num - had};
	u64 object = k->object;

	k->object = 0;
	t->sk = k->sk;
	t->left = k->left;
	if (more.num && first_bytes(&more.first, buf + had, more.num)) {
		len = plain_capture(object, buf + had, &more, pos);
		if (len)
			more_len = k->more_num + len;
	}
	if (k->more_num && more_len) /* with what was captured before */
		more_len = plain_copy(buf + k->num, more_len < FRAMES_BYTES ? more_len : FRAMES_BYTES, pos);
	if (k->tied) {
		t->before = k->num;
		w->num = more_num;
		if (k->num <= RECORD_BYTES || !more_num)
			return more_len;
		lose(LOSS_PLAIN_TIE);
		return 0;
	}
	if (k->num > RECORD_BYTES) {
		len = k->len < k->num ? k->len : k->num + more_len;
		return plain_copy(buf, len < FRAMES_BYTES ? len : FRAMES_BYTES, pos);
	}
	t->more_num = more_num;
	t->more_pos = *pos;
	t->more_len = more_len;
	w->num = k->num;
	return plain_copy(buf, k->len, pos);
}

/* A library is given num bytes of plaintext by this thread, or by a goroutine of Go. */
static __always_inline int plain_given(u64 addr, const void *buf, u64 num, u64 go, u32 binary)
{
	u64 object = object_of(addr);
	u32 tid = go ? goroutine_number(go) : (u32)bpf_get_current_pid_tgid(), pos = 0, len;
	struct write w = {.num = num};
	struct stalled *k;
	struct thread *t;

	if (!num || num > 0x7fffffff || !enabled() || process_excluded() || !first_bytes(&w.first, buf, num))
		return 0;
	__sync_fetch_and_add(&tls_binary(binary)->calls, 1);
	t = thread_of(tid);
	if (!t)
		return 0;
	plain_stalls(t);
	t->state = THREAD_BEGINS;
	t->blocked = 0;
	t->other = 0;
	t->more_len = 0;
	t->before = 0;
	t->left = 0;
	k = plain_again(object, num, begins_with(w.first));
	if (k)
		len = plain_more(t, k, buf, &w, &pos);
	else
		len = plain_capture(object, buf, &w, &pos);
	t->object = object;
	t->first = begins_with(w.first);
	t->pos = pos;
	t->num = w.num;
	t->len = len;
	t->go = go;
	t->binary = binary;
	barrier();
	t->state = len ? THREAD_WRITES : k ? THREAD_WROTE : THREAD_IDLE;
	return 0;
}

/* int SSL_write(SSL *ssl, const void *buf, int num) */
SEC("uprobe.multi")
int mw_ssl_write(struct pt_regs *ctx)
{
	return plain_given(ctx->di, (const void *)ctx->si, (u64)(s64)(s32)ctx->dx, 0, bpf_get_attach_cookie(ctx));
}

/* int SSL_write_ex(SSL *ssl, const void *buf, size_t num, size_t *written) */
SEC("uprobe.multi")
int mw_ssl_write_ex(struct pt_regs *ctx)
{
	return plain_given(ctx->di, (const void *)ctx->si, ctx->dx, 0, bpf_get_attach_cookie(ctx));
}

/* func (c *Conn) Write(b []byte) (int, error), by Go's ABIInternal */
SEC("uprobe.multi")
int mw_go_write(struct pt_regs *ctx)
{
	return plain_given(ctx->ax, (const void *)ctx->bx, ctx->cx, ctx->r14, bpf_get_attach_cookie(ctx));
}

/* A library is asked for plaintext by this thread, or by a goroutine of Go. */
static __always_inline int plain_asked(u64 addr, u64 buf, u64 size, u64 go)
{
	u64 object = object_of(addr);
	struct thread *t;

	if (!enabled() || process_excluded())
		return 0;
	t = thread_of(go ? goroutine_number(go) : (u32)bpf_get_current_pid_tgid());
	if (!t)
		return 0;
	plain_stalls(t);
	t->go = go;
	if (t->object != object)
		t->sk = 0;
	t->object = object;
	t->buf = buf;
	t->size = size;
	t->blocked = 0;
	t->state = THREAD_READS;
	return 0;
}

/* A library has given this thread plaintext: num bytes. It is of the flight that the thread's socket read last. */
static __always_inline int plain_got(struct thread *t, u64 num)
{
	struct socket *s = t->sk ? socket_find(t->sk) : 0;
	struct flight *of = s ? flight_by_id(s->in_id) : 0, *f;
	struct write w = {.num = num};
	u32 pos = 0, len;
	u64 id;

	if (!of || of->flags & FLIGHT_PLAIN) /* its sender is probed, too */
		return 0;
	if (!(of->flags & FLIGHT_AWAITS)) { /* one of several that were read at once */
		lose(LOSS_PLAIN_TIE);
		return 0;
	}
	len = first_bytes(&w.first, (const void *)t->buf, num) ? plain_capture(0, (const void *)t->buf, &w, &pos) : 0;
	if (!len)
		return 0;
	f = flight_notice(bpf_ktime_get_ns(), &id);
	f->seq = f->end = f->recv_upto = of->seq;
	f->ack = of->ack;
	f->flags = FLIGHT_TEXT | FLIGHT_OPAQUE | FLIGHT_PLAIN | FLIGHT_HEAD_END;
	f->head_pos = pos;
	f->head_len = len;
	f->plain_len = num;
	f->send_port = of->send_port;
	f->send_peer = of->send_peer;
	f->prev = (u32)of->id;
	f->send_sk = of->send_sk;
	flight_publish(f, id);
	return 0;
}

/* int SSL_read(SSL *ssl, void *buf, int num) */
SEC("uprobe.multi")
int mw_ssl_read(struct pt_regs *ctx)
{
	return plain_asked(ctx->di, ctx->si, 0, 0);
}

/* int SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *readbytes) */
SEC("uprobe.multi")
int mw_ssl_read_ex(struct pt_regs *ctx)
{
	return plain_asked(ctx->di, ctx->si, ctx->cx, 0);
}

/* Whether memory is of a goroutine's stack, which may have been moved meanwhile. Its bounds are what a struct g begins with. */
static __always_inline int on_stack(u64 go, u64 buf)
{
	u64 bounds[2];

	return bpf_probe_read_user(bounds, sizeof(bounds), (const void *)go) || (buf >= bounds[0] && buf < bounds[1]);
}

/* func (c *Conn) Read(b []byte) (int, error), by Go's ABIInternal */
SEC("uprobe.multi")
int mw_go_read(struct pt_regs *ctx)
{
	if (on_stack(ctx->r14, ctx->bx))
		return 0;
	return plain_asked(ctx->ax, ctx->bx, 0, ctx->r14);
}

/* A call that reads returns. */
static __always_inline int plain_ends(struct thread *t, s64 num)
{
	if (!t || t->state != THREAD_READS)
		return 0;
	t->state = THREAD_IDLE;
	if (num <= 0 || !enabled())
		return 0;
	if (t->size && bpf_probe_read_user(&num, sizeof(num), (const void *)t->size)) {
		lose(LOSS_PLAIN_COPY);
		return 0;
	}
	if (num <= 0 || num > 0x7fffffff)
		return 0;
	return plain_got(t, num);
}

/* SSL_read and SSL_read_ex return: bytes, or 1. */
SEC("uprobe.multi")
int mw_ssl_read_end(struct pt_regs *ctx)
{
	return plain_ends(thread_find((u32)bpf_get_current_pid_tgid()), (s32)ctx->ax);
}

/* (*Conn).Read is about to: at each of its RET. Return probes change the stack, which Go moves. */
SEC("uprobe.multi")
int mw_go_read_end(struct pt_regs *ctx)
{
	struct thread *t = thread_find(goroutine_number(ctx->r14));

	return plain_ends(t && t->go == ctx->r14 ? t : 0, ctx->ax);
}

char _license[] SEC("license") = "GPL";
