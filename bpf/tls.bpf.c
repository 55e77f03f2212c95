// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Plaintext where TLS libraries take it and give it (uprobe.multi, Linux 6.6): SSL_write and SSL_read and their _ex forms of OpenSSL and
 * BoringSSL, and crypto/tls's (*Conn).Write and Read of Go. x86-64: arguments are where its ABI, or Go's, has them.
 */
#include "c/stall.h"

/* In the namespaces that are left out of TLS probing nothing is copied: a bit for the low 14 bits of each one's inode number. */
u64 mw_tls_off[(1 << 14) / 64] SHARED(mw_tls_off) = {};

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
