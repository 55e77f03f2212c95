// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* tc hooks of one link (tcx links, Linux 6.6): what device.bpf.c does, for kernels on which tracepoints cannot read packets.
 */
#include "c/device.h"

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

static __always_inline int load_bytes(void *ctx, u32 off, void *to, u32 len)
{
	return bpf_skb_load_bytes(ctx, off, to, len);
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

/* Both directions: one program, so that its code stays in the cache. */
SEC("tcx/ingress")
int mw_tc(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct sk_buff *skb;
	u32 off;

	if (!enabled())
		return TCX_NEXT;
	skb = bpf_cast_to_kern_ctx(ctx);
	off = skb->network_header - (u32)(skb->data - skb->head); /* of the link header, where ctx->data is */
	off &= 0xff;
	if (!packet_here(ctx, off, &p))
		return TCX_NEXT;
	if (BPF_CORE_READ_BITFIELD(skb, tc_at_ingress))
		device_ingress(skb, &p);
	else
		device_egress(ctx, skb, &p, off + p.payload_off);
	return TCX_NEXT;
}

char _license[] SEC("license") = "GPL";
