/* SPDX-License-Identifier: GPL-2.0 */
/* Where flights begin: is this packet the first of a message, and if so, claim and fill its record. */
#pragma once
#include "packet.h"

#define RAW_FREE_RUN 16		 /* opaque messages in a row that a socket may have recorded at any pace */
#define RAW_SPACING_NS 10000000	 /* and then one in 10 ms: a bulk transfer both ways stays at 100 a second */
#define CONT_LIMIT 64		 /* pieces of one head */

enum start {
	START_NO,
	START_YES,
	START_IF_PLAUSIBLE, /* only if the first bytes look like a message */
	START_CONT,	    /* more of a head that is not complete, unless the first bytes look like a message */
};

static __always_inline int looks_like_http(u32 b)
{
	switch (b) { /* first four bytes, read little-endian */
	case 0x20544547: /* "GET " */
	case 0x54534f50: /* "POST" */
	case 0x20545550: /* "PUT " */
	case 0x44414548: /* "HEAD" */
	case 0x454c4544: /* "DELE" */
	case 0x4954504f: /* "OPTI" */
	case 0x43544150: /* "PATC" */
	case 0x4e4e4f43: /* "CONN" */
	case 0x43415254: /* "TRAC" */
	case 0x50545448: /* "HTTP" */
		return 1;
	}
	return 0;
}

/* A TLS record header: type 20 to 23, legacy version 3.0 to 3.4 (RFC 8446 §5.1). */
static __always_inline int looks_like_tls(u32 b)
{
	return (b & 0xff) >= 20 && (b & 0xff) <= 23 && (b >> 8 & 0xff) == 3 && (b >> 16 & 0xff) <= 4;
}

/* A message starts after a change of direction, or where its first bytes say so. Called once per data packet at its first hook. */
static __always_inline enum start start_wanted(struct sock *sk, const struct packet *p, u64 now, struct socket **out)
{
	struct socket *s = socket_find(sock_id(sk));
	struct flight *prev;

	if (p->syn) {
		*out = s ?: socket_make(sock_id(sk), p->seq + 1);
		if (*out && (prev = flight_by_id((*out)->out_id)) && prev->seq == p->seq)
			return START_NO; /* SYN sent again */
		return START_YES;
	}
	if (!s) {
		struct tcp_sock *tp = CAST(sk, struct tcp_sock);

		if (tp->snd_nxt != p->seq)
			return START_NO;
		*out = socket_make(sock_id(sk), tp->write_seq);
		if (!tp->packets_out)
			return START_YES;
		lose(LOSS_UNKNOWN_SOCKET);
		return START_IF_PLAUSIBLE;
	}
	*out = s;
	if (p->seq != s->next) {
		if (!(s->flags & SOCKET_PEND) || s->pend - p->seq >= p->payload)
			return START_NO;
		s->flags &= ~SOCKET_PEND;
		if (p->seq != s->pend) {
			if (s->flags & SOCKET_TURNED)
				lose(LOSS_COALESCED);
			return START_NO;
		}
	}
	prev = flight_by_id(s->out_id);
	if (prev && prev->seq == p->seq)
		return START_NO; /* sent again before the write returned */
	if (s->flags & SOCKET_TURNED) {
		if (!prev || prev->flags & (FLIGHT_HTTP | FLIGHT_OPAQUE | FLIGHT_SYN)) {
			s->raw_run = 0;
		} else if (++s->raw_run > RAW_FREE_RUN && now - prev->start_ns < RAW_SPACING_NS) {
			lose(LOSS_RAW_BUDGET);
			s->flags &= ~SOCKET_TURNED; /* it counts as more of the one before, so that no byte is without a flight */
			return START_IF_PLAUSIBLE;
		}
		return START_YES;
	}
	/* of less than 4 bytes nobody knows yet what they are */
	if (prev && !(prev->flags & (FLIGHT_HEAD_END | FLIGHT_OPAQUE)) && (prev->flags & FLIGHT_HTTP || prev->head_total < 4)) {
		if (s->raw_run < CONT_LIMIT)
			return START_CONT;
		lose(LOSS_CONT_LIMIT);
	}
	return START_IF_PLAUSIBLE;
}

/* Decides what start_wanted left open, by the first bytes of the payload: 0 when they are not to be had. */
static __always_inline enum start start_decide(enum start how, u32 first)
{
	if (looks_like_http(first) || looks_like_tls(first))
		return START_YES;
	return how == START_CONT ? START_CONT : START_NO;
}

/* Claims a record: the next slot whose flight is finished, overwritten long ago or too old to wait for. */
static __always_inline struct flight *flight_claim(u64 now, u64 *id)
{
	struct control *c = control();
	struct flight *f = 0;

	if (!c)
		return 0;
	for (int i = 0; i < 4; i++) {
		u32 slot;

		*id = __sync_fetch_and_add(&c->next_id, 1) + 1;
		slot = *id & ring_mask;
		f = bpf_map_lookup_elem(&mw_flights, &slot);
		if (!f)
			return 0;
		if (!f->watched && (!f->id || (f->recv_ns && seq_diff(f->recv_upto, f->end) >= 0) || now - f->start_ns > live_ns))
			return f;
	}
	lose(LOSS_RING_LIVE);
	return f;
}

/* Puts a flight in its set: in place of one with the same sequence number, else of a free entry, else of the oldest. */
static __always_inline void index_insert(u32 seq, u32 id)
{
	struct index_set *set = index_of(seq);
	u32 age = 0;
	u64 *to;

	if (!set)
		return;
	to = &set->e[0];
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < INDEX_WAYS; i++) {
		u64 e = set->e[i];
		u32 older = e ? id - (u32)(e >> 32) : 0xfffffffe;

		if (e && (u32)e == seq)
			older = 0xffffffff;
		if (older >= age) {
			age = older;
			to = &set->e[i];
		}
	}
	if (*to) {
		struct flight *f = flight_by_id(*to >> 32);

		if (f && !f->recv_ns)
			lose(LOSS_INDEX_FULL);
	}
	*to = (u64)id << 32 | seq;
}

static __always_inline void copy_addr(u8 *to, const struct in6_addr *from)
{
	u64 *t = (u64 *)to;
	const u64 *f = (const u64 *)from->in6_u.u6_addr8;

	t[0] = f[0];
	t[1] = f[1];
}

/* Fills f with a message that starts with this packet on sk, and makes it findable. */
static __always_inline struct flight *flight_start(struct sock *sk, struct socket *s, const struct packet *p, u64 now, u32 how)
{
	struct flight *f, *prev;
	u64 id;

	f = flight_claim(now, &id);
	if (!f)
		return 0;
	*(volatile u64 *)&f->id = 0;
	f->start_ns = now;
	f->send_ns = f->recv_ns = f->recv_end_ns = 0;
	f->seq = p->seq;
	f->end = p->seq + p->payload;
	f->recv_upto = p->seq;
	f->watched = 0;
	f->ack = p->ack;
	f->prev = s->out_id;
	f->nstamps = 0;
	f->head_len = f->head_total = 0;
	f->retransmits = f->drop_reason = 0;
	f->flags = (sk->__sk_common.skc_family == AF_INET6 ? FLIGHT_IPV6 : 0) | (p->syn ? FLIGHT_SYN : 0);
	prev = flight_by_id(s->out_id);
	if (prev && prev->send_sk == s->sk && seq_diff(prev->end, p->seq) > 0)
		prev->end = p->seq; /* it had been given what was queued behind it */
	if (how == START_CONT) {
		f->flags |= FLIGHT_CONT | FLIGHT_HTTP; /* or so it is hoped */
		f->head_total = prev ? prev->head_total : HEAD_BYTES;
		s->raw_run++;
	}
	f->send_sk = sock_id(sk);
	f->recv_sk = 0;
	f->send_pid = f->send_tid = f->recv_pid = f->recv_tid = 0;
	f->send_netns = sk->__sk_common.skc_net.net->ns.inum;
	f->recv_netns = 0;
	f->send_port = sk->__sk_common.skc_num;
	f->send_peer = bpf_ntohs(sk->__sk_common.skc_dport);
	f->recv_port = f->recv_peer = 0;
	if (f->flags & FLIGHT_IPV6) {
		copy_addr(f->send_addr, &sk->__sk_common.skc_v6_rcv_saddr);
		copy_addr(f->send_paddr, &sk->__sk_common.skc_v6_daddr);
	} else {
		*(u32 *)f->send_addr = sk->__sk_common.skc_rcv_saddr;
		*(u32 *)f->send_paddr = sk->__sk_common.skc_daddr;
	}
	s->out_id = (u32)id;
	s->flags &= ~SOCKET_TURNED;
	if (p->syn)
		s->flags |= SOCKET_TURNED;
	*(volatile u64 *)&f->id = id;
	index_insert(p->seq, (u32)id);
	return f;
}

/* Notes that a socket is closed, so that nobody waits for what can no longer come and its identity may be used again. Ports
 * may be gone already. */
static __always_inline void flight_close(const struct socket *s, u64 now, int reset)
{
	u64 id;
	struct flight *f = flight_claim(now, &id);

	if (!f)
		return;
	*(volatile u64 *)&f->id = 0;
	f->start_ns = f->send_ns = f->recv_ns = f->recv_end_ns = now;
	f->seq = f->end = f->recv_upto = s->next;
	f->watched = 0;
	f->ack = 0;
	f->prev = s->out_id;
	f->nstamps = 0;
	f->head_len = f->head_total = 0;
	f->retransmits = f->drop_reason = 0;
	f->flags = FLIGHT_CLOSE | (reset ? FLIGHT_RESET : 0);
	f->send_sk = s->sk;
	f->recv_sk = 0;
	*(volatile u64 *)&f->id = id;
}
