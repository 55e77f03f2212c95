// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Where packets leave and enter devices, for all devices of the node at once (tp_btf; reading packets there takes Linux 6.11). They
 * fire where tc's hooks are, and nothing has to be attached to a device or when one comes.
 */
#include "c/device.h"
#include <bpf/bpf_tracing.h>

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, u64 flags, struct bpf_dynptr *ptr) __ksym;

static __always_inline int load_bytes(void *ctx, u32 off, void *to, u32 len)
{
	struct bpf_dynptr d;

	return bpf_dynptr_from_skb(ctx, 0, &d) ?: bpf_dynptr_read(to, len, &d, off, 0);
}

/* Every packet that is given to a device. skb->data is the link header. */
SEC("tp_btf/net_dev_queue")
int BPF_PROG(mw_queue, struct sk_buff *skb)
{
	struct packet p = {};
	u32 off;

	if (!enabled() || (!skb->sk && !*(volatile u32 *)&mw_control.deep))
		return 0;
	off = skb->network_header - (u32)(skb->data - skb->head);
	if (packet_read(skb->data + off, skb->len - skb->data_len - off, skb->len - off, skb->protocol, &p))
		device_egress(skb, skb, &p, off + p.payload_off);
	return 0;
}

/* Every packet that a device gives to the stack. skb->data is the network header. Attached where there is full depth. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(mw_ingress, struct sk_buff *skb)
{
	struct packet p = {};

	if (enabled() && packet_read(skb->data, skb->len - skb->data_len, skb->len, skb->protocol, &p))
		device_ingress(skb, &p);
	return 0;
}

char _license[] SEC("license") = "GPL";
