/* SPDX-License-Identifier: GPL-2.0 */
/* From a packet to what the recorder needs of it: ports, sequence, payload. */
#pragma once
#include "flight.h"

struct packet {
	u32 seq; /* host byte order, as all here */
	u32 ack;
	u16 src, dst;
	u32 payload;	 /* bytes of TCP payload */
	u32 payload_off; /* from the network header */
	u8 syn;		 /* SYN without ACK */
	u8 ipv6;
};

/* False when the packet is not ours: not TCP, no payload and no SYN, a later fragment, extension headers.
 * Reads the linear part by pointer: no helper call. The head may not be linear beyond the headers. */
static __always_inline int packet_parse(struct sk_buff *skb, struct packet *p)
{
	unsigned char *head = skb->head;
	u32 net = skb->network_header, tail = skb->tail, ip_len, tcp_off;
	struct tcphdr *th;
	u32 doff;

	if (skb->protocol == bpf_htons(0x0800)) { /* ETH_P_IP, linux/if_ether.h */
		struct iphdr *ip = CAST(head + net, struct iphdr);

		if (ip->protocol != IPPROTO_TCP || ip->frag_off & bpf_htons(0x1fff))
			return 0;
		tcp_off = (ip->version_ihl & 0xf) * 4;
		ip_len = bpf_ntohs(ip->tot_len);
		p->ipv6 = 0;
	} else if (skb->protocol == bpf_htons(0x86dd)) { /* ETH_P_IPV6 */
		struct ipv6hdr *ip6 = CAST(head + net, struct ipv6hdr);

		if (ip6->nexthdr != IPPROTO_TCP)
			return 0;
		tcp_off = 40;
		ip_len = bpf_ntohs(ip6->payload_len);
		if (ip_len)
			ip_len += 40;
		p->ipv6 = 1;
	} else {
		return 0;
	}
	if (net + tcp_off + 20 > tail) {
		lose(LOSS_NONLINEAR);
		return 0;
	}
	if (!ip_len) /* BIG TCP: the length field is too small */
		ip_len = skb->len - (net - (u32)(skb->data - head));
	th = CAST(head + net + tcp_off, struct tcphdr);
	doff = (th->doff >> 4) * 4;
	p->payload_off = tcp_off + doff;
	p->payload = ip_len > p->payload_off ? ip_len - p->payload_off : 0;
	p->syn = (th->flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) == TCP_FLAG_SYN;
	if (!p->payload && !p->syn)
		return 0;
	p->seq = bpf_ntohl(th->seq);
	p->ack = bpf_ntohl(th->ack_seq);
	p->src = bpf_ntohs(th->source);
	p->dst = bpf_ntohs(th->dest);
	return 1;
}

/* The flight that begins with this packet, if it is under way. */
static __always_inline struct flight *packet_flight(const struct packet *p)
{
	u64 *entry;

	return index_find(p->seq, p->src, p->dst, &entry);
}
