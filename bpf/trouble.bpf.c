// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* What goes wrong on the way (tp_btf): segments sent again, packets dropped with the kernel's reason, connections reset.
 * Rare events, so they may cost more than the hooks of every packet.
 */
#include "c/packet.h"
#include <bpf/bpf_tracing.h>

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(mw_retransmit, struct sock *sk, struct sk_buff *skb)
{
	struct socket *s;
	struct flight *f;
	u32 seq;

	if (!enabled())
		return 0;
	s = socket_find(sock_id(sk));
	f = s ? flight_by_id(s->out_id) : 0;
	if (!f)
		return 0;
	seq = *(u32 *)skb->cb; /* struct tcp_skb_cb begins with the sequence number, net/tcp.h */
	if (seq_diff(seq, f->seq) < 0)
		return 0; /* of a message before */
	__sync_fetch_and_add(&f->retransmits, 1);
	if (seq != f->seq && !f->recv_ns) /* the first segment's own stamps tell its story */
		stamp_at(f, bpf_ktime_get_ns(), place(HOOK_RETRANSMIT, f->send_netns, 0));
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(mw_drop, struct sk_buff *skb, void *location, u32 reason)
{
	struct net_device *dev;
	struct packet p = {};
	struct flight *f;
	u32 net, tail;

	if (!enabled())
		return 0;
	net = skb->network_header;
	tail = skb->tail;
	if (!packet_read(skb->head + net, tail > net ? tail - net : 0, skb->len, skb->protocol, &p))
		return 0;
	f = packet_flight(&p);
	if (!f)
		return 0;
	dev = skb->dev;
	stamp_at(f, bpf_ktime_get_ns(), dev ? place(HOOK_DROP, dev->nd_net.net->ns.inum, dev->ifindex) : place(HOOK_DROP, 0, 0));
	f->drop_reason = reason;
	f->flags |= FLIGHT_DROPPED;
	return 0;
}

static __always_inline void reset_on(struct sock *sk)
{
	struct socket *s = sk && enabled() ? socket_find(sock_id(sk)) : 0;
	struct flight *f;

	if (!s)
		return;
	f = flight_by_id(s->out_id);
	if (f)
		f->flags |= FLIGHT_RESET;
	f = flight_by_id(s->in_id);
	if (f)
		f->flags |= FLIGHT_RESET;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(mw_rst_out, struct sock *sk)
{
	reset_on(sk);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(mw_rst_in, struct sock *sk)
{
	reset_on(sk);
	return 0;
}

char _license[] SEC("license") = "GPL";
