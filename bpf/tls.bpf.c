// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Plaintext where TLS libraries take it (uprobe.multi, Linux 6.6): SSL_write and SSL_write_ex of OpenSSL and BoringSSL, and crypto/tls's
 * (*Conn).Write of Go. x86-64: arguments are where its ABI, or Go's, has them.
 */
#include "c/plain.h"

/* In the namespaces that are left out of TLS probing nothing is copied: a bit for the low 14 bits of each one's inode number. */
u64 mw_tls_off[(1 << 14) / 64] SHARED(mw_tls_off) = {};

static __always_inline u32 task_netns(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->nsproxy->net_ns->ns.inum;
}

/* How much of a write is worth copying: a head; the frames that stand in one write of HTTP/2, but not a body. */
static __always_inline u32 plain_wanted(u64 first, u32 num)
{
	u32 frame = 9 + ((first & 0xff) << 16 | (first & 0xff00) | (first >> 16 & 0xff)); /* its header, and its length in network order */

	if (kind_of(first) != FLIGHT_FRAMES)
		return HEAD_BYTES;
	if (!(first >> 24 & 0xff) && frame >= num) /* DATA to the end: its header, and that of a gRPC message */
		return 64;
	return FRAMES_BYTES;
}

/* A library is given num bytes of plaintext by this thread. */
static __always_inline int plain_given(u64 object, const void *buf, u64 num, int go, u32 binary)
{
	u32 tid = (u32)bpf_get_current_pid_tgid(), pos, len, netns;
	struct thread *t;
	u64 first = 0;
	u8 *to;

	if (!num || num > 0x7fffffff || !enabled())
		return 0;
	netns = task_netns();
	if (excluded(netns) || mw_tls_off[netns >> 6 & 0xff] >> (netns & 63) & 1)
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
	if (bpf_probe_read_user(&first, num < 8 ? num & 7 : 8, buf)) {
		lose(LOSS_PLAIN_COPY);
		return 0;
	}
	len = plain_wanted(first, num);
	if (len > num)
		len = num;
	if (len - 1 >= FRAMES_BYTES) /* for the verifier */
		return 0;
	to = claim_head(len, &pos);
	if (bpf_probe_read_user(to, len, buf)) {
		lose(LOSS_PLAIN_COPY);
		return 0;
	}
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
	return plain_given(ctx->r14, (const void *)ctx->bx, ctx->cx, 1, bpf_get_attach_cookie(ctx));
}

char _license[] SEC("license") = "GPL";
