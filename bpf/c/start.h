/* SPDX-License-Identifier: GPL-2.0 */
/* Where flights begin: is this packet the first of a message, and if so, fill its record. */
#pragma once
#include "claim.h"
#include "kind.h"
#include "packet.h"

#define RAW_FREE_RUN 16		 /* opaque messages in a row that a socket may have recorded at any pace */
#define RAW_SPACING_NS 10000000	 /* and then one in 10 ms: a bulk transfer both ways stays at 100 a second */
#define CONT_LIMIT 64		 /* pieces of one head, or of HTTP/2 that begin within a frame */

enum start {
	START_NO,
	START_YES,
	START_FRAMES,	    /* more HTTP/2 of which all so far was captured: heads may stand in it, too */
	START_IF_PLAUSIBLE, /* only if the first bytes look like a message */
	START_CONT,	    /* more of a head that is not complete, unless the first bytes look like a message */
};

/* A fresh state for sock, in place of its own, a free or the less recently used one. With one of MPTCP no flight ever starts, as no program is
 * seen to read from it.
 */
static __noinline struct socket *socket_make(const struct sock *sock, u32 next)
{
	u64 sk = sock_id(sock);
	struct socket_set *set = sockets_of(socket_hash(sk));
	struct socket *s = socket_first(sk);

	if (s->sk && s->sk != sk) {
#pragma clang loop unroll(disable)
		for (int i = 0; i < SOCKET_WAYS; i++) {
			struct socket *t = &set->s[i];

			if (t->sk == sk) {
				s = t;
				break;
			}
			if (s->sk && (!t->sk || seq_diff(t->out_id, s->out_id) < 0))
				s = t;
		}
	}
	if (s->sk && s->sk != sk)
		lose(LOSS_SOCKET_FULL);
	s->sk = sk;
	s->next = next;
	s->out_id = 0;
	s->in_id = 0;
	s->raw_run = 0;
	s->pieces = 0;
	s->pending = 0;
	s->turned = TURNED_NEW;
	if (unlikely(is_mptcp(sock))) {
		s->turned = 0;
		if (!excluded(sock->__sk_common.skc_net.net->ns.inum))
			lose(LOSS_MPTCP);
	}
	return s;
}

/* What start_wanted found out on its way. */
struct origin {
	struct socket *s;
	struct flight *prev; /* the flight before on this socket; 0: there is none, or it cannot matter */
};

/* The usual case: the packet begins a write, and something was read since the last one. Decided by the socket's own line alone. */
static __always_inline int start_usual(const struct socket *s, const struct packet *p)
{
	return s->next == p->seq && s->turned && s->out_seq != p->seq && s->raw_run <= RAW_FREE_RUN;
}

/* Whether a message that is neither HTTP nor TLS, as far as known, is within the socket's budget. */
static __always_inline int raw_within(struct socket *s, u64 now)
{
	struct flight *prev;

	if (s->raw_run <= RAW_FREE_RUN) {
		s->raw_run++;
		return 1;
	}
	prev = flight_by_id(s->out_id);
	if (!prev || prev->flags & (FLIGHT_HTTP | FLIGHT_OPAQUE | FLIGHT_FRAMES | FLIGHT_SYN))
		s->raw_run = 1;
	else if (now - prev->start_ns < RAW_SPACING_NS)
		return 0;
	return 1;
}

/* Whether nothing is known of what the socket sent since recording was switched on. */
static __always_inline int socket_stale(const struct socket *s)
{
	return s->turned != TURNED_NEW && !s->pending && seq_diff(s->out_id, *(volatile u32 *)&mw_control.since) < 0;
}

/* Whether a packet goes on, within a write or in another one, with HTTP/2 of which all was captured so far. */
static __always_inline int frames_go_on(const struct flight *prev, u32 seq)
{
	return prev && prev->flags & FLIGHT_FRAMES && prev->head_len && prev->seq + prev->head_len == seq;
}

/* All other cases. A message starts after a change of direction, or where its first bytes say so. */
static __noinline enum start start_other(struct sock *sk, const struct packet *p, u64 now, struct origin *o)
{
	struct socket *s = o->s;
	struct flight *prev;

	if (unlikely(is_mptcp(sk))) {
		if (!s)
			socket_make(sk, p->seq);
		return START_NO;
	}
	if (p->syn) {
		if (!s)
			o->s = s = socket_make(sk, p->seq + 1);
		return s->out_id && s->out_seq == p->seq ? START_NO : START_YES; /* no: sent again */
	}
	if (!s || (p->seq != s->next && socket_stale(s))) {
		struct tcp_sock *tp = CAST(sk, struct tcp_sock);

		if (tp->snd_nxt != p->seq)
			return START_NO;
		o->s = socket_make(sk, tp->write_seq);
		if (!tp->packets_out)
			return START_YES;
		lose(LOSS_UNKNOWN_SOCKET);
		return START_IF_PLAUSIBLE;
	}
	prev = flight_by_id(s->out_id);
	if (p->seq != s->next) {
		if (unlikely(!(s->pending && s->pend == p->seq) && s->pieces < CONT_LIMIT && frames_go_on(prev, p->seq))) {
			if (s->pending && s->pend - p->seq < p->payload)
				s->pending = 0;
			o->prev = prev;
			return START_FRAMES;
		}
		if (!s->pending || s->pend - p->seq >= p->payload)
			return START_NO;
		s->pending = 0;
		if (p->seq != s->pend) {
			if (s->turned)
				lose(LOSS_COALESCED);
			return START_NO;
		}
		o->prev = prev; /* it may have been given what was queued behind it */
	}
	if (s->out_id && s->out_seq == p->seq)
		return START_NO; /* sent again before the write returned */
	if (s->turned) {
		if (raw_within(s, now))
			return START_YES;
		lose(LOSS_RAW_BUDGET);
		s->turned = 0; /* it counts as more of the one before, so that no byte is without a flight */
		return START_IF_PLAUSIBLE;
	}
	o->prev = prev;
	if (s->pieces < CONT_LIMIT && frames_go_on(prev, p->seq))
		return START_FRAMES;
	/* of less than 4 bytes nobody knows yet what they are */
	if (prev && !(prev->flags & (FLIGHT_HEAD_END | FLIGHT_OPAQUE | FLIGHT_FRAMES)) && (prev->flags & FLIGHT_HTTP || prev->head_total < 4)) {
		if (s->pieces < CONT_LIMIT)
			return START_CONT;
		lose(LOSS_CONT_LIMIT);
	}
	return START_IF_PLAUSIBLE;
}

/* Whether a flight starts with this packet. Called once per data packet at its first hook. */
static __always_inline enum start start_wanted(struct sock *sk, const struct packet *p, u64 now, struct origin *o)
{
	struct packet copy;

	o->prev = 0;
	o->s = socket_find(sock_id(sk));
	if (likely(o->s && start_usual(o->s, p))) {
		o->s->raw_run++;
		return START_YES;
	}
	copy = *p; /* so that p itself can stay in registers */
	return start_other(sk, &copy, now, o);
}

/* Fetches what a start writes and has been long out of the cache. */
static __always_inline void start_touch(struct sock *sk, const struct packet *p)
{
	struct flight *f = flight_slot((u32)*(volatile u64 *)&mw_control.next_id + 1);

	touch(&f->id);
	touch(&f->send_sk);
	touch(socket_first(sock_id(sk)));
	touch(index_first(p->seq));
}

/* Decides what start_wanted left open, by the first bytes of the payload: 0 when they are not to be had. */
static __always_inline enum start start_decide(enum start how, u64 first)
{
	return kind_of(first) ? START_YES : how == START_CONT ? START_CONT : START_NO;
}

static __always_inline void copy_addr(u8 *to, const struct in6_addr *from)
{
	u64 *t = (u64 *)to;
	const u64 *f = (const u64 *)from->in6_u.u6_addr8;

	t[0] = f[0];
	t[1] = f[1];
}

/* Whether a socket's addresses are IPv6 ones. One that speaks IPv4 on an IPv6 socket has them as IPv4 too. */
static __always_inline int speaks_ipv6(const struct sock *sk)
{
	const u64 *a = (const u64 *)sk->__sk_common.skc_v6_daddr.in6_u.u6_addr8;

	return sk->__sk_common.skc_family == AF_INET6 && (a[0] || (u32)a[1] != bpf_htonl(0xffff));
}

/* Fills f with a message that starts with this packet on sk, and makes it findable. where is its first stamp's place, 0 for none. */
static __always_inline struct flight *flight_start(struct sock *sk, const struct origin *o, const struct packet *p, u64 now, u32 how, u32 where)
{
	struct flight *f, *prev = o->prev;
	struct socket *s = o->s;
	u32 flags = p->syn ? FLIGHT_SYN : 0, head_total = 0;
	u64 id, who;

	if (unlikely(how == START_CONT)) {
		flags |= FLIGHT_CONT | FLIGHT_HTTP; /* or so it is hoped */
		head_total = prev ? prev->head_total : HEAD_BYTES;
		s->pieces++;
	} else if (unlikely(how == START_FRAMES)) {
		flags |= FLIGHT_FRAMES;
		s->pieces++;
	} else {
		s->pieces = 0;
	}
	if (unlikely(prev) && seq_diff(prev->end, p->seq) > 0)
		prev->end = p->seq; /* it had been given what was queued behind it */
	f = flight_claim(now, &id);
	f->start_ns = now;
	f->recv_ns = 0;
	f->seq = p->seq;
	f->end = p->seq + p->payload;
	if (unlikely(!p->syn && seq_diff(s->next, f->end) > 0))
		f->end = s->next; /* of a write that was queued and has returned */
	f->recv_upto = p->seq;
	f->watched = 0;
	f->ack = p->ack;
	f->nstamps = !!where; /* nobody else knows the flight yet: no need to count atomically */
	f->head_pos = 0;
	f->head_len = 0;
	f->head_total = head_total;
	f->send_port = sk->__sk_common.skc_num;
	f->send_peer = bpf_ntohs(sk->__sk_common.skc_dport);
	f->prev = s->out_id;
	f->send_sk = s->sk;
	f->send_ns = 0;
	who = unlikely(p->syn) ? bpf_get_current_pid_tgid() : 0; /* what opens a connection leaves while its opener calls connect() */
	f->send_pid = who >> 32;
	f->send_tid = (u32)who;
	if (unlikely(how == START_FRAMES && prev) && seq_diff(s->next, p->seq) > 0) { /* its write has returned */
		f->send_ns = prev->send_ns;
		f->send_pid = prev->send_pid;
		f->send_tid = prev->send_tid;
	}
	f->send_netns = sk->__sk_common.skc_net.net->ns.inum;
	if (unlikely(speaks_ipv6(sk))) {
		flags |= FLIGHT_IPV6;
		copy_addr(f->send_addr, &sk->__sk_common.skc_v6_rcv_saddr);
		copy_addr(f->send_paddr, &sk->__sk_common.skc_v6_daddr);
	} else {
		f->send_addr4 = sk->__sk_common.skc_rcv_saddr;
		f->send_paddr4 = sk->__sk_common.skc_daddr;
	}
	f->retransmits = 0;
	f->flags = flags;
	f->stamps[0].place = where;
	f->stamps[0].delta = 0;
	s->out_id = (u32)id;
	s->out_seq = p->seq;
	s->turned = p->syn;
	flight_publish(f, id);
	index_insert(p->seq, (u32)id);
	return f;
}

/* Notes that a socket is closed, so that nobody waits for what can no longer come and its identity may be used again. Ports
 * may be gone already. */
static __always_inline void flight_close(const struct socket *s, u64 now, int reset)
{
	u64 id;
	struct flight *f = flight_notice(now, &id);

	f->seq = f->end = f->recv_upto = s->next;
	f->flags = FLIGHT_CLOSE | (reset ? FLIGHT_RESET : 0);
	f->prev = s->out_id;
	f->send_sk = s->sk;
	flight_publish(f, id);
}
