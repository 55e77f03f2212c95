/* SPDX-License-Identifier: GPL-2.0 */
/* What is done where a packet leaves or enters a device. tc.bpf.c and device.bpf.c include it; they say how a packet's bytes are
 * read: load_bytes.
 */
#pragma once
#include "joined.h"

/* Copies len bytes of the packet, from off after skb->data. 0: done. */
static __always_inline int load_bytes(void *ctx, u32 off, void *to, u32 len);

/* A flight begins with a TLS record, of this packet's payload at off: notes the last record that begins in it. Did its plaintext wait for
 * it? */
static __noinline int plain_sent(void *ctx, struct flight *f, u32 payload, u32 off)
{
	struct parked *k = parked_at(f->seq);
	u8 header[8] = {};
	u32 at = 0;

	f->plain_len = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++) {
		u32 len;

		if (load_bytes(ctx, off + at, header, RECORD_HEADER))
			break;
		len = record_length(header);
		at += RECORD_HEADER + len;
		if (!len || at > payload)
			break;
		if (at == payload) {
			f->plain_len = header[0] == RECORD_APPLICATION ? len : 0;
			break;
		}
	}
	if (k->seq != f->seq || k->sk != f->send_sk)
		return 0;
	if (k->len && !record_fits(f, k->num)) {
		lose(LOSS_PLAIN_TIE);
		k->sk = 0;
		return 0;
	}
	f->send_pid = k->pid;
	f->send_tid = k->tid;
	f->send_ns = f->start_ns; /* its write returned before */
	if (!k->len) {
		f->head_len = f->head_total = 0;
		f->plain_len = 0;
		f->flags |= FLIGHT_PLAIN | FLIGHT_HEAD_END | FLIGHT_JOINED;
	} else if (f->seq + k->wire == f->end || !plain_join(f)) {
		plain_tie(f, k->pos, k->len, k->num);
		tied(k->binary);
	}
	k->sk = 0;
	return 0;
}

/* Copies more of a write of HTTP/2 than of other messages: many heads may stand in it. */
static __noinline void copy_frames(void *ctx, struct flight *f, u32 payload, u32 off)
{
	u32 pos, len = payload < FRAMES_BYTES ? payload : FRAMES_BYTES;
	u8 *to;

	if (len - 1 >= FRAMES_BYTES) /* for the verifier */
		return;
	to = claim_head(len, &pos);
	if (load_bytes(ctx, off, to, len))
		return; /* what was copied before does */
	f->head_pos = pos;
	f->head_len = len;
}

/* Copies the message's first bytes, once, and notes what they look like. off is where they are. */
static __always_inline void copy_head(void *ctx, struct flight *f, u32 payload, u32 off)
{
	u32 len, pos, flags, room = HEAD_BYTES - f->head_total;
	u8 *to;

	if (unlikely(f->flags & FLIGHT_FRAMES)) {
		copy_frames(ctx, f, payload, off);
		return;
	}
	len = payload < room ? payload : room;
	if (len - 1 >= HEAD_BYTES) /* also 0: the verifier wants 1 to HEAD_BYTES */
		return;
	to = claim_head(len, &pos);
	if (load_bytes(ctx, off, to, len)) {
		lose(LOSS_HEAD_COPY);
		f->flags |= FLIGHT_HEAD_END;
		return;
	}
	f->head_pos = pos;
	f->head_len = len;
	f->head_total += len;
	flags = f->head_total >= HEAD_BYTES ? FLIGHT_HEAD_END : 0;
	if (likely(len >= 4)) {
		flags |= kind_of(len >= 8 ? *(u64 *)to : *(u32 *)to);
		if (*(u32 *)(to + len - 4) == 0x0a0d0a0d) /* "\r\n\r\n" */
			flags |= FLIGHT_HEAD_END;
	}
	if (unlikely(!(flags & ~FLIGHT_HEAD_END) && frames_go_on(flight_by_id(f->prev), f->seq)))
		flags = FLIGHT_FRAMES;
	f->flags |= flags;
	if (unlikely(flags & FLIGHT_FRAMES && payload > len))
		copy_frames(ctx, f, payload, off);
	else if (unlikely(flags & FLIGHT_OPAQUE && tls_probed()))
		plain_sent(ctx, f, payload, off);
}

/* When TCP sent the packet that is leaving now. The rules of OUTPUT and POST_ROUTING have run since. */
static __always_inline u64 sent_at(const struct sk_buff *skb, u64 now)
{
	u64 at = skb->tstamp;

	return now - at < 1000000000 ? at : now; /* with pacing it may lie in the future */
}

/* A TCP socket, and not what stands for one while a connection opens or when it is over, which is smaller. */
static __always_inline struct sock *full_socket(struct sk_buff *skb)
{
	struct sock *sk = skb->sk;
	u32 state;

	if (!sk)
		return 0;
	state = sk->__sk_common.skc_state;
	return state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || sk->sk_protocol != IPPROTO_TCP ? 0 : sk;
}

/* A flight that starts with this packet, or none. Its first stamp is when TCP sent it. off is where its payload is. */
static __always_inline struct flight *egress_start(void *ctx, struct sk_buff *skb, struct sock *sk, const struct packet *p, u64 now, u32 off)
{
	u32 netns = sk->__sk_common.skc_net.net->ns.inum, ifindex = skb->dev->ifindex;
	u64 sent = sent_at(skb, now), b = 0;
	struct origin o = {};
	struct flight *f;
	enum start how;

	if (excluded(netns))
		return 0;
	how = start_wanted(sk, p, now, &o);
	if (how >= START_IF_PLAUSIBLE)
		how = start_decide(how, load_bytes(ctx, off, &b, 8) && load_bytes(ctx, off, &b, 4) ? 0 : b);
	if (how == START_NO || !o.s)
		return 0;
	f = flight_start(sk, &o, p, sent, how, place(HOOK_OUTPUT, netns, ifindex));
	f->stamps[1].place = place(HOOK_EGRESS, netns, ifindex);
	f->stamps[1].delta = now - sent;
	f->nstamps = 2;
	return f;
}

/* A packet that is about to leave through skb->dev. off is where its payload is. */
static __always_inline void device_egress(void *ctx, struct sk_buff *skb, const struct packet *p, u32 off)
{
	struct sock *sk = full_socket(skb);
	struct flight *f;
	u64 now, sent;
	u32 netns;

	if (likely(sk))
		start_touch(sk, p);
	else if (!*(volatile u32 *)&mw_control.deep)
		return;
	now = bpf_ktime_get_ns();
	f = packet_flight(p);
	if (f) {
		if (!(f->flags & FLIGHT_DEEP)) {
			if (!sk)
				return;
			sent = sent_at(skb, now);
			if (sent > f->start_ns && sent != now) /* again: where there are netfilter hooks, one of them says so */
				stamp_at(f, sent, place(HOOK_OUTPUT, f->send_netns, skb->dev->ifindex));
		}
		netns = skb->dev->nd_net.net->ns.inum;
		stamp_at(f, now, place(HOOK_EGRESS, netns, skb->dev->ifindex));
	} else {
		f = sk ? egress_start(ctx, skb, sk, p, now, off) : 0;
		if (!f)
			return;
	}
	if (!f->head_len && p->payload && !(f->flags & FLIGHT_HEAD_END))
		copy_head(ctx, f, p->payload, off);
}

/* A packet that has come in through skb->dev. */
static __always_inline void device_ingress(struct sk_buff *skb, const struct packet *p)
{
	struct flight *f = packet_flight(p);

	if (f && f->flags & FLIGHT_DEEP)
		stamp_at(f, bpf_ktime_get_ns(), place(HOOK_INGRESS, skb->dev->nd_net.net->ns.inum, skb->dev->ifindex));
}
