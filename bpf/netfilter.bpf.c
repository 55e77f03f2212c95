// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Netfilter hooks of one network namespace (BPF netfilter links, Linux 6.4), for full depth: the borders of the iptables/nftables
 * chains. What it sends starts here, ahead of its rules. One stamp serves two neighbours: "before POSTROUTING" is also "after OUTPUT".
 * At LOCAL_OUT skb->dev is not set: the namespace comes from the hook state.
 */
#include "c/start.h"

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, u64 flags, struct bpf_dynptr *ptr) __ksym;

static __always_inline u32 place_of(const struct bpf_nf_ctx *ctx, u32 hook)
{
	const struct nf_hook_state *st = ctx->state;
	struct net_device *dev = hook == HOOK_OUTPUT || hook == HOOK_POSTROUTING ? st->out : st->in;

	return place(hook, st->net->ns.inum, dev ? dev->ifindex : 0);
}

/* Here skb->data is the network header, and the kernel has trimmed what a link padded. */
static __always_inline int packet_here(const struct bpf_nf_ctx *ctx, struct packet *p)
{
	struct sk_buff *skb = ctx->skb;

	return packet_read(skb->data, skb->len - skb->data_len, skb->len, skb->protocol, p);
}

static __noinline u64 first_bytes(struct bpf_nf_ctx *ctx, u32 off)
{
	struct bpf_dynptr d;
	u64 b = 0;

	if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &d))
		return 0;
	if (bpf_dynptr_read(&b, 8, &d, off, 0) && bpf_dynptr_read(&b, 4, &d, off, 0))
		return 0;
	return b;
}

/* The first hook of every packet that this namespace sends. */
SEC("netfilter")
int mw_nf_output(struct bpf_nf_ctx *ctx)
{
	struct packet p = {};
	struct origin o = {};
	struct flight *f;
	struct sock *sk;
	enum start how;
	u64 now;

	if (!enabled() || !packet_here(ctx, &p))
		return NF_ACCEPT;
	sk = ctx->skb->sk;
	if (likely(sk))
		start_touch(sk, &p);
	now = bpf_ktime_get_ns();
	how = likely(sk) ? start_wanted(sk, &p, now, &o) : START_NO;
	if (unlikely(how >= START_IF_PLAUSIBLE))
		how = start_decide(how, first_bytes(ctx, p.payload_off));
	if (likely(how != START_NO && sk && o.s)) {
		f = flight_start(sk, &o, &p, now, how, place_of(ctx, HOOK_OUTPUT));
		f->flags |= FLIGHT_DEEP;
		return NF_ACCEPT;
	}
	f = packet_flight(&p);
	if (f)
		stamp_at(f, now, place_of(ctx, HOOK_OUTPUT));
	return NF_ACCEPT;
}

/* Before the rules of POST_ROUTING, FORWARD and LOCAL_IN. One program for the three, so that its code stays in the cache. */
SEC("netfilter")
int mw_nf_stamp(struct bpf_nf_ctx *ctx)
{
	struct packet p = {};
	struct flight *f;
	u32 hook;

	if (!enabled() || !packet_here(ctx, &p))
		return NF_ACCEPT;
	f = packet_flight(&p);
	if (!f)
		return NF_ACCEPT;
	hook = ctx->state->hook;
	hook = hook == NF_INET_POST_ROUTING ? HOOK_POSTROUTING : hook == NF_INET_FORWARD ? HOOK_FORWARD : HOOK_INPUT;
	stamp_at(f, bpf_ktime_get_ns(), place_of(ctx, hook));
	return NF_ACCEPT;
}

/* The last hook before the receiving socket. */
SEC("netfilter")
int mw_nf_deliver(struct bpf_nf_ctx *ctx)
{
	struct packet p = {};
	struct flight *f;

	if (!enabled() || !packet_here(ctx, &p))
		return NF_ACCEPT;
	f = packet_flight(&p);
	if (f)
		stamp_at(f, bpf_ktime_get_ns(), place_of(ctx, HOOK_DELIVERED));
	return NF_ACCEPT;
}

char _license[] SEC("license") = "GPL";
