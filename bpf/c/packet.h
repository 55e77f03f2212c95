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
};

/* The words of the headers that are read. Each read through a cast pointer is a range check of six instructions, so there are few. */
struct words {
	u64 ip;	     /* its first eight bytes: for IPv4 up to the fragment offset, for IPv6 all before the addresses */
	u8 protocol; /* what IPv4 carries */
	u64 tcp;     /* ports, sequence */
	u64 tcp2;    /* acknowledgement, offset, flags, window */
};

/* The upper half of a word; hidden from the compiler, which would test its bits with constants of 64. */
static __always_inline u32 upper(u64 word)
{
	u32 half = word >> 32;

	asm volatile("" : "+r"(half));
	return half;
}

/* Where the TCP header is, from the network header; 0: not TCP, a later fragment, or IPv6 extension headers. ip_len is 0 for BIG
 * TCP, whose length field is too small. */
static __always_inline u32 words_tcp(const struct words *w, u16 ethertype, u32 *ip_len)
{
	u32 half = upper(w->ip);

	if (likely(ethertype == bpf_htons(0x0800))) { /* ETH_P_IP, linux/if_ether.h */
		if (w->protocol != IPPROTO_TCP || half >> 16 & bpf_htons(0x1fff))
			return 0;
		*ip_len = bpf_ntohs(w->ip >> 16);
		return (w->ip & 0xf) * 4;
	}
	if (ethertype == bpf_htons(0x86dd)) { /* ETH_P_IPV6 */
		if ((u8)(half >> 16) != IPPROTO_TCP)
			return 0;
		*ip_len = bpf_ntohs(half);
		if (*ip_len)
			*ip_len += 40;
		return 40;
	}
	return 0;
}

/* False when the packet is not ours: no payload and no SYN. len is that of the packet from the network header. */
static __always_inline int words_packet(const struct words *w, u32 tcp_off, u32 len, struct packet *p)
{
	u32 half = upper(w->tcp2);

	p->payload_off = tcp_off + (half >> 2 & 0x3c);
	p->payload = len - p->payload_off;
	p->syn = (half >> 8 & (TCP_FLAG_SYN | TCP_FLAG_ACK)) == TCP_FLAG_SYN;
	if (unlikely((s32)p->payload <= 0)) {
		if (!p->syn)
			return 0;
		p->payload = 0;
	}
	p->src = bpf_ntohs(w->tcp);
	p->dst = bpf_ntohs(w->tcp >> 16);
	p->seq = bpf_ntohl(w->tcp >> 32);
	p->ack = bpf_ntohl(w->tcp2);
	return 1;
}

/* Eight bytes of a packet. The kernel's type must be one that may be read in any size: an array of bytes. */
static __always_inline u64 word_at(const void *p)
{
	return *(const u64 *)CAST(p, struct in6_addr)->in6_u.u6_addr8;
}

/* Reads the linear part by pointer: no helper call. base is the network header, linear how much of it is there, len how long the
 * packet is where its own field does not say. The head may not be linear beyond the headers. */
static __always_inline int packet_read(const unsigned char *base, u32 linear, u32 len, u16 ethertype, struct packet *p)
{
	struct words w = {.ip = word_at(base)};
	u32 tcp_off, ip_len = 0;

	w.protocol = CAST(base, struct iphdr)->protocol;
	tcp_off = words_tcp(&w, ethertype, &ip_len);
	if (!tcp_off)
		return 0;
	if (unlikely(tcp_off + 20 > linear)) {
		lose(LOSS_NONLINEAR);
		return 0;
	}
	w.tcp = word_at(base + tcp_off);
	w.tcp2 = word_at(base + tcp_off + 8);
	return words_packet(&w, tcp_off, ip_len ?: len, p);
}

/* The flight that begins with this packet, if it is under way. */
static __always_inline struct flight *packet_flight(const struct packet *p)
{
	u64 *entry;

	return index_find(p->seq, p->src, p->dst, p->ack, 0, &entry);
}
