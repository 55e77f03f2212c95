// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Netfilter hooks of one network namespace (BPF netfilter links, Linux 6.4): where flights start, and the borders of the
 * iptables/nftables chains. One stamp serves two neighbours: "before POSTROUTING" is also "after OUTPUT".
 * At LOCAL_OUT skb->dev is not set: the namespace comes from the hook state.
 */
#include "c/start.h"

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, u64 flags, struct bpf_dynptr *ptr) __ksym;

static __always_inline u32 place_of(const struct bpf_nf_ctx *ctx, u32 hook)
{
	const struct nf_hook_state *st = ctx->state;
	struct net_device *dev = hook == HOOK_FORWARD || hook == HOOK_INPUT || hook == HOOK_DELIVERED ? st->in : st->out;

	return place(hook, st->net->ns.inum, dev ? dev->ifindex : 0);
}

static __always_inline u32 first_bytes(struct bpf_nf_ctx *ctx, u32 off)
{
	struct bpf_dynptr d;
	u32 b = 0;

	if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &d) || bpf_dynptr_read(&b, sizeof(b), &d, off, 0))
		return 0;
	return b;
}

/* The first hook of every packet that this namespace sends. */
SEC("netfilter")
int mw_nf_output(struct bpf_nf_ctx *ctx)
{
	struct packet p = {};
	struct socket *s = 0;
	struct flight *f;
	struct sock *sk;
	enum start how;
	u64 now;

	if (!enabled() || !packet_parse(ctx->skb, &p))
		return NF_ACCEPT;
	sk = ctx->skb->sk;
	now = bpf_ktime_get_ns();
	how = sk ? start_wanted(sk, &p, now, &s) : START_NO;
	if (how >= START_IF_PLAUSIBLE)
		how = start_decide(how, first_bytes(ctx, p.payload_off));
	f = how == START_NO || !s ? packet_flight(&p) : flight_start(sk, s, &p, now, how);
	if (f)
		stamp_at(f, now, place_of(ctx, HOOK_OUTPUT));
	return NF_ACCEPT;
}

static __always_inline int stamp_here(struct bpf_nf_ctx *ctx, u32 hook)
{
	struct packet p = {};
	struct flight *f;

	if (!enabled() || !packet_parse(ctx->skb, &p))
		return NF_ACCEPT;
	f = packet_flight(&p);
	if (f)
		stamp_at(f, bpf_ktime_get_ns(), place_of(ctx, hook));
	return NF_ACCEPT;
}

SEC("netfilter")
int mw_nf_postrt(struct bpf_nf_ctx *ctx)
{
	return stamp_here(ctx, HOOK_POSTROUTING);
}

SEC("netfilter")
int mw_nf_forward(struct bpf_nf_ctx *ctx)
{
	return stamp_here(ctx, HOOK_FORWARD);
}

SEC("netfilter")
int mw_nf_input(struct bpf_nf_ctx *ctx)
{
	return stamp_here(ctx, HOOK_INPUT);
}

/* The last hook before the receiving socket. A SYN is complete here: nobody reads it. */
SEC("netfilter")
int mw_nf_deliver(struct bpf_nf_ctx *ctx)
{
	struct packet p = {};
	struct flight *f;
	u64 *entry, now;

	if (!enabled() || !packet_parse(ctx->skb, &p))
		return NF_ACCEPT;
	f = index_find(p.seq, p.src, p.dst, &entry);
	if (!f)
		return NF_ACCEPT;
	now = bpf_ktime_get_ns();
	stamp_at(f, now, place_of(ctx, HOOK_DELIVERED));
	if (p.syn) {
		f->recv_ns = f->recv_end_ns = f->send_ns = now;
		f->recv_netns = ctx->state->net->ns.inum;
		*entry = 0;
	}
	return NF_ACCEPT;
}

char _license[] SEC("license") = "GPL";
