// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Plaintext where TLS libraries take it and give it (uprobe.multi, Linux 6.6): SSL_write and SSL_read and their _ex forms of OpenSSL and
 * BoringSSL, and crypto/tls's (*Conn).Write of Go. x86-64: arguments are where its ABI, or Go's, has them.
 */
#include "c/plain.h"

/* In the namespaces that are left out of TLS probing nothing is copied: a bit for the low 14 bits of each one's inode number. */
u64 mw_tls_off[(1 << 14) / 64] SHARED(mw_tls_off) = {};

static __always_inline u32 task_netns(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->nsproxy->net_ns->ns.inum;
}

#define FRAME_HEADER 9
#define FRAME_START 64 /* of a DATA frame: its header, and that of a gRPC message */

/* A frame's length, with its header. */
static __always_inline u32 frame_length(u64 first)
{
	return FRAME_HEADER + ((first & 0xff) << 16 | (first & 0xff00) | (first >> 16 & 0xff));
}

/* How much of HTTP/2 is worth copying: all frames that stand in one write, but of a body only where its frames begin. */
static __always_inline u32 frames_wanted(struct object *o, u64 first, const u8 *buf, u32 num)
{
	u32 at = 0, length;

	if (o->rest) { /* it begins within DATA */
		at = o->rest;
		if (at >= num) {
			o->rest -= num;
			return 1;
		}
		o->rest = 0;
		first = 0;
		if (num - at < 8 || bpf_probe_read_user(&first, 8, buf + at))
			return FRAMES_BYTES;
	} else if (kind_of(first) != FLIGHT_FRAMES) {
		return FRAMES_BYTES; /* within some frame */
	}
	length = frame_length(first);
	if (first >> 24 & 0xff || at + length < num)
		return FRAMES_BYTES;
	o->rest = at + length - num;
	return at + FRAME_START;
}

/* How much of a write is worth copying: a head, or HTTP/2's frames. object is the connection's; 0: of a read. */
static __always_inline u32 plain_wanted(u64 object, u64 first, const u8 *buf, u32 num)
{
	u32 kind = kind_of(first);
	struct object *o;

	if (!object)
		return kind == FLIGHT_FRAMES ? FRAMES_BYTES : HEAD_BYTES;
	o = (struct object *)section(mw_objects) + (hash32((u32)(object >> 4)) >> 16 & (OBJECTS - 1));
	if (o->object != object) {
		if (kind != FLIGHT_FRAMES)
			return HEAD_BYTES;
		o->object = object;
		o->rest = 0;
	} else if (kind == FLIGHT_HTTP && !o->rest) { /* used again by another connection */
		o->object = 0;
		return HEAD_BYTES;
	}
	return frames_wanted(o, first, buf, num);
}

/* Copies up to num bytes of plaintext into `heads`. How many, and where, or 0. */
static __always_inline u32 plain_copy(u64 object, const void *buf, u64 num, u32 *pos)
{
	u64 first = 0;
	u32 len;
	u8 *to;

	if (bpf_probe_read_user(&first, num < 8 ? num & 7 : 8, buf)) {
		lose(LOSS_PLAIN_COPY);
		return 0;
	}
	len = plain_wanted(object, first, buf, num);
	if (len > num)
		len = num;
	if (len - 1 >= FRAMES_BYTES) /* for the verifier */
		return 0;
	to = claim_head(len, pos);
	if (bpf_probe_read_user(to, len, buf)) {
		lose(LOSS_PLAIN_COPY);
		return 0;
	}
	return len;
}

/* Whether the calling process is left alone. */
static __always_inline int process_excluded(void)
{
	u32 netns = task_netns();

	return excluded(netns) || mw_tls_off[netns >> 6 & 0xff] >> (netns & 63) & 1;
}

/* A library is given num bytes of plaintext by this thread, or by a goroutine of Go. */
static __always_inline int plain_given(u64 object, const void *buf, u64 num, u64 go, u32 binary)
{
	u32 tid = go ? goroutine_number(go) : (u32)bpf_get_current_pid_tgid(), pos, len;
	struct thread *t;

	if (!num || num > 0x7fffffff || !enabled() || process_excluded())
		return 0;
	__sync_fetch_and_add(&tls_binary(binary)->calls, 1);
	t = thread_of(tid);
	if (t->object == object && t->num == num && t->blocked) { /* made again, as the socket took no more */
		t->blocked = 0;
		if (t->state == THREAD_WROTE)
			return 0;
	} else if (t->state == THREAD_WRITES) {
		lose(LOSS_PLAIN_TIE);
	}
	t->state = THREAD_IDLE;
	len = plain_copy(object, buf, num, &pos);
	if (!len)
		return 0;
	t->object = object;
	t->pos = pos;
	t->num = num;
	t->len = len;
	t->go = go;
	t->blocked = 0;
	t->binary = binary;
	barrier();
	t->state = THREAD_WRITES;
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

/* A library is asked for plaintext by this thread. */
static __always_inline int plain_asked(u64 ssl, u64 buf, u64 size)
{
	struct thread *t;

	if (!enabled() || process_excluded())
		return 0;
	t = thread_of((u32)bpf_get_current_pid_tgid());
	if (t->state == THREAD_WRITES)
		lose(LOSS_PLAIN_TIE);
	if (t->object != ssl)
		t->sk = 0;
	t->object = ssl;
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
	u32 pos, len;
	u64 id;

	if (!of || of->flags & FLIGHT_PLAIN) /* its sender is probed, too */
		return 0;
	if (!(of->flags & FLIGHT_AWAITS)) { /* one of several that were read at once */
		lose(LOSS_PLAIN_TIE);
		return 0;
	}
	len = plain_copy(0, (const void *)t->buf, num, &pos);
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
	return plain_asked(ctx->di, ctx->si, 0);
}

/* int SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *readbytes) */
SEC("uprobe.multi")
int mw_ssl_read_ex(struct pt_regs *ctx)
{
	return plain_asked(ctx->di, ctx->si, ctx->cx);
}

/* Either returns: bytes, or 1. */
SEC("uprobe.multi")
int mw_ssl_read_end(struct pt_regs *ctx)
{
	struct thread *t = thread_find((u32)bpf_get_current_pid_tgid());
	s64 num = (s32)ctx->ax;

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

char _license[] SEC("license") = "GPL";
