// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* tc hooks of one link (tcx links, Linux 6.6): the borders of devices. The first of them that sees a message copies its first
 * bytes, as netfilter programs cannot. Where there are no netfilter links, egress also starts flights.
 */
#include "c/start.h"

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

static __always_inline u32 place_of(const struct sk_buff *skb, u32 hook)
{
	struct net_device *dev = skb->dev;

	return place(hook, dev->nd_net.net->ns.inum, dev->ifindex);
}

/* Copies the message's first bytes, once, and notes what they look like. */
static __always_inline void copy_head(struct __sk_buff *ctx, struct sk_buff *skb, struct flight *f, const struct packet *p)
{
	struct control *c = control();
	u32 zero = 0, off, len, pos, first = 0, last = 0, room = HEAD_BYTES - f->head_total;
	struct heads *heads = bpf_map_lookup_elem(&mw_heads, &zero);

	if (!c || !heads)
		return;
	len = p->payload < room ? p->payload : room;
	if (len - 1 >= HEAD_BYTES) /* also 0: the verifier wants 1 to HEAD_BYTES */
		return;
	/* bpf_skb_load_bytes counts from skb->data, which is the link header here */
	off = skb->network_header - (u32)(skb->data - skb->head) + p->payload_off;
	pos = __sync_fetch_and_add(&c->head_pos, (len + 7) & ~7u);
	u8 *to = &heads->b[pos & (HEADS_SIZE - 1)];

	if (bpf_skb_load_bytes(ctx, off, to, len)) {
		lose(LOSS_HEAD_COPY);
		f->flags |= FLIGHT_HEAD_END;
		return;
	}
	f->head_pos = pos;
	f->head_len = len;
	f->head_total += len;
	first = *(u32 *)to;
	if (len >= 4 && looks_like_http(first))
		f->flags |= FLIGHT_HTTP;
	else if (len >= 4 && looks_like_tls(first))
		f->flags |= FLIGHT_OPAQUE;
	if (len >= 4 && bpf_skb_load_bytes(ctx, off + len - 4, &last, 4))
		last = 0;
	if (f->head_total >= HEAD_BYTES || last == 0x0a0d0a0d) /* "\r\n\r\n" */
		f->flags |= FLIGHT_HEAD_END;
}

static __always_inline void start_here(struct __sk_buff *ctx, struct sk_buff *skb, const struct packet *p)
{
	u32 off = skb->network_header - (u32)(skb->data - skb->head) + p->payload_off, b = 0;
	u64 now = bpf_ktime_get_ns();
	struct sock *sk = skb->sk;
	struct socket *s = 0;
	enum start how;

	how = sk ? start_wanted(sk, p, now, &s) : START_NO;
	if (how >= START_IF_PLAUSIBLE)
		how = start_decide(how, bpf_skb_load_bytes(ctx, off, &b, 4) ? 0 : b);
	if (how == START_NO || !s)
		return;
	flight_start(sk, s, p, now, how);
}

static __always_inline int hook_here(struct __sk_buff *ctx, u32 hook)
{
	struct packet p = {};
	struct sk_buff *skb;
	struct flight *f;

	if (!enabled())
		return TCX_NEXT;
	skb = bpf_cast_to_kern_ctx(ctx);
	if (!packet_parse(skb, &p))
		return TCX_NEXT;
	if (start_at_tc && hook == HOOK_EGRESS)
		start_here(ctx, skb, &p);
	f = packet_flight(&p);
	if (!f)
		return TCX_NEXT;
	stamp_at(f, bpf_ktime_get_ns(), place_of(skb, hook));
	if (!f->head_len && p.payload && !(f->flags & FLIGHT_HEAD_END))
		copy_head(ctx, skb, f, &p);
	return TCX_NEXT;
}

SEC("tcx/egress")
int mw_tc_egress(struct __sk_buff *ctx)
{
	return hook_here(ctx, HOOK_EGRESS);
}

SEC("tcx/ingress")
int mw_tc_ingress(struct __sk_buff *ctx)
{
	return hook_here(ctx, HOOK_INGRESS);
}

char _license[] SEC("license") = "GPL";
