// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* tc hooks of one link (tcx links, Linux 6.6): the borders of devices. The first of them that sees a message copies its first
 * bytes, as netfilter programs cannot. Where there are no netfilter links, egress also starts flights.
 */
#include "c/start.h"

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

static __always_inline u32 place_of(const struct __sk_buff *ctx, const struct sk_buff *skb, u32 hook)
{
	return place(hook, skb->dev->nd_net.net->ns.inum, ctx->ifindex);
}

static __always_inline int nonlinear(u16 ethertype)
{
	if (ethertype == bpf_htons(0x0800) || ethertype == bpf_htons(0x86dd))
		lose(LOSS_NONLINEAR);
	return 0;
}

/* The headers, by direct packet access. off is where the network header is. The link may have padded the packet, so its own
 * field says how long it is. */
static __always_inline int packet_here(struct __sk_buff *ctx, u32 off, struct packet *p)
{
	const u8 *ip = (const u8 *)(long)ctx->data + off, *end = (const u8 *)(long)ctx->data_end, *tcp;
	u32 tcp_off, ip_len = 0;
	struct words w;

	if (ip + 20 > end)
		return nonlinear(ctx->protocol);
	w.ip = *(const u64 *)ip;
	w.protocol = ip[9];
	tcp_off = words_tcp(&w, ctx->protocol, &ip_len);
	if (!tcp_off)
		return 0;
	tcp = ip + tcp_off;
	if (tcp + 20 > end)
		return nonlinear(ctx->protocol);
	w.tcp = *(const u64 *)tcp;
	w.tcp2 = *(const u64 *)(tcp + 8);
	return words_packet(&w, tcp_off, ip_len ?: ctx->len - off, p);
}

/* Copies the message's first bytes, once, and notes what they look like. off is where they are. */
static __always_inline void copy_head(struct __sk_buff *ctx, struct flight *f, u32 payload, u32 off)
{
	u32 len, pos, flags, room = HEAD_BYTES - f->head_total;

	len = payload < room ? payload : room;
	if (len - 1 >= HEAD_BYTES) /* also 0: the verifier wants 1 to HEAD_BYTES */
		return;
	pos = __sync_fetch_and_add(&mw_control.head_pos, (len + 7) & ~7u);
	u8 *to = (u8 *)section(mw_heads) + (pos & (HEADS_SIZE - 1));

	if (bpf_skb_load_bytes(ctx, off, to, len)) {
		lose(LOSS_HEAD_COPY);
		f->flags |= FLIGHT_HEAD_END;
		return;
	}
	f->head_pos = pos;
	f->head_len = len;
	f->head_total += len;
	flags = f->head_total >= HEAD_BYTES ? FLIGHT_HEAD_END : 0;
	if (likely(len >= 4)) {
		flags |= kind_of(*(u32 *)to);
		if (*(u32 *)(to + len - 4) == 0x0a0d0a0d) /* "\r\n\r\n" */
			flags |= FLIGHT_HEAD_END;
	}
	f->flags |= flags;
}

/* A flight that starts with this packet, or none. */
static __always_inline struct flight *start_here(struct __sk_buff *ctx, struct sk_buff *skb, const struct packet *p, u32 off)
{
	struct sock *sk = skb->sk;
	struct origin o = {};
	enum start how;
	u32 b = 0;
	u64 now;

	if (likely(sk))
		start_touch(sk, p);
	now = bpf_ktime_get_ns();
	how = sk ? start_wanted(sk, p, now, &o) : START_NO;
	if (how >= START_IF_PLAUSIBLE)
		how = start_decide(how, bpf_skb_load_bytes(ctx, off, &b, 4) ? 0 : b);
	if (how == START_NO || !sk || !o.s)
		return 0;
	return flight_start(sk, &o, p, now, how, place_of(ctx, skb, HOOK_EGRESS));
}

static __always_inline int hook_here(struct __sk_buff *ctx, struct sk_buff *skb, u32 hook, int start)
{
	struct packet p = {};
	struct flight *f;
	u32 off;

	off = skb->network_header - (u32)(skb->data - skb->head); /* of the link header, where ctx->data is */
	off &= 0xff;
	if (!packet_here(ctx, off, &p))
		return TCX_NEXT;
	off += p.payload_off;
	f = packet_flight(&p);
	if (f) {
		stamp_at(f, bpf_ktime_get_ns(), place_of(ctx, skb, hook));
	} else {
		f = start ? start_here(ctx, skb, &p, off) : 0;
		if (!f)
			return TCX_NEXT;
	}
	if (!f->head_len && p.payload && !(f->flags & FLIGHT_HEAD_END))
		copy_head(ctx, f, p.payload, off);
	return TCX_NEXT;
}

/* Both directions: one program, so that its code stays in the cache. */
SEC("tcx/ingress")
int mw_tc(struct __sk_buff *ctx)
{
	struct sk_buff *skb;

	if (!enabled())
		return TCX_NEXT;
	skb = bpf_cast_to_kern_ctx(ctx);
	return hook_here(ctx, skb, BPF_CORE_READ_BITFIELD(skb, tc_at_ingress) ? HOOK_INGRESS : HOOK_EGRESS, 0);
}

/* Egress that also starts the flights which no netfilter hook has started. */
SEC("tcx/egress")
int mw_tc_start(struct __sk_buff *ctx)
{
	if (!enabled())
		return TCX_NEXT;
	return hook_here(ctx, bpf_cast_to_kern_ctx(ctx), HOOK_EGRESS, 1);
}

char _license[] SEC("license") = "GPL";
