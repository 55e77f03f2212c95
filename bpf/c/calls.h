/* SPDX-License-Identifier: GPL-2.0 */
/* What a socket call has to do with the library call that it was made in: whose plaintext was written, for which goroutine. */
#pragma once
#include "gohttp.h"
#include "tie.h"

/* The latest call of the goroutine that runs on this thread. */
static __noinline struct thread *goroutine_find(void)
{
	u64 g = goroutine();
	struct thread *t = g ? thread_find(goroutine_number(g)) : 0;

	return t && t->go == g ? t : 0;
}

/* Has a thread plaintext for this write? */
static __always_inline struct thread *plain_writer(struct thread *t)
{
	if ((!t || t->state != THREAD_WRITES) && *(volatile u32 *)&mw_control.tls & TLS_GO)
		t = goroutine_find();
	return t && t->state == THREAD_WRITES ? t : 0;
}

/* Plaintext of HTTP/2 waits for the window, or has left in the middle of a packet: no flight need begin with it. It becomes a record of its
 * own, which says where in the stream it is. */
static __noinline void plain_tell(const struct thread *t, const struct socket *s, const struct sock *sk, u32 start, u32 wire)
{
	u64 id, who = bpf_get_current_pid_tgid();
	struct flight *f = flight_notice(bpf_ktime_get_ns(), &id);

	f->seq = start;
	f->end = f->recv_upto = start + wire;
	f->flags = FLIGHT_TEXT | FLIGHT_OPAQUE | FLIGHT_PLAIN | FLIGHT_HEAD_END;
	f->head_pos = t->pos;
	f->head_len = t->len;
	f->plain_len = t->num;
	f->send_port = sk->__sk_common.skc_num;
	f->send_peer = bpf_ntohs(sk->__sk_common.skc_dport);
	f->send_pid = who >> 32;
	f->send_tid = (u32)who;
	f->prev = s->out_id;
	f->send_sk = s->sk;
	flight_publish(f, id);
	tied(t->binary);
}

/* What was written waits for the window. told: its plaintext has a record. */
static __always_inline void plain_park(const struct thread *t, const struct socket *s, u32 start, u32 wire, int told)
{
	struct parked *k = parked_at(start);
	u64 who = bpf_get_current_pid_tgid();

	if (k->sk && k->len)
		lose(LOSS_PLAIN_TIE);
	k->seq = start;
	k->pos = t->pos;
	k->num = t->num;
	k->wire = wire;
	k->pid = who >> 32;
	k->tid = (u32)who;
	k->len = told ? 0 : t->len;
	k->binary = t->binary;
	k->sk = s->sk;
}

/* What the calling thread has written to a socket. */
struct wrote {
	struct sock *sk;
	struct socket *s;
	struct flight *f; /* the socket's latest */
	u32 start;
	u32 wire;   /* bytes */
	int queued; /* nothing of it has left */
};

static __noinline int plain_wrote(const struct wrote *w)
{
	struct socket *s = w->s;
	struct flight *f = w->f;
	u32 start = w->start, wire = w->wire;
	int queued = w->queued;
	struct thread *t = thread_find((u32)bpf_get_current_pid_tgid());
	int opaque = f && f->flags & FLIGHT_OPAQUE, told;
	u32 part;

	if (t && t->state == THREAD_WROTE && t->sk == s->sk) { /* the call goes on */
		t->blocked = 0;
		t->left -= wire < t->left ? wire : t->left;
	}
	if (!queued && !opaque)
		return 0;
	t = plain_writer(t);
	if (!t)
		return 0;
	if (unlikely(t->left)) { /* it is made again, and this is of what is tied */
		t->left -= wire < t->left ? wire : t->left;
		return 0;
	}
	if (opaque && f->seq == start) {
		if (f->flags & FLIGHT_PLAIN || !(t->before ? record_within(f, t->num) : record_fits(f, t->num))) {
			t->other = 1; /* a handshake's */
			if (t->before) { /* in a call that is made again: what follows may be any part of it */
				t->state = THREAD_WROTE;
				t->len = 0;
				lose(LOSS_PLAIN_TIE);
			}
			return 0;
		}
		part = record_first(f) > wire;
		plain_tie(f, t->pos, t->len, t->num);
		tied(t->binary);
		t->blocked = part && !t->go;
	} else {
		told = object_find(t->object) && wire <= t->num + RECORD_HEADER + RECORD_OVERHEAD_MAX;
		if (!queued && !told) {
			t->other = 1;
			return 0;
		}
		if (told)
			plain_tell(t, s, w->sk, start, wire);
		if (queued)
			plain_park(t, s, start, wire, told);
	}
	t->sk = s->sk;
	t->other = 0;
	part = t->num + RECORD_HEADER + RECORD_OVERHEAD;
	part -= wire < part ? wire : part;
	t->left = part < 0xffff ? part : 0xffff;
	if (t->more_len) { /* goes out with the next write */
		t->before = t->num;
		t->pos = t->more_pos;
		t->num = t->more_num;
		t->len = t->more_len;
		t->more_len = 0;
		return 0;
	}
	t->state = THREAD_WROTE;
	return 0;
}

/* A socket took no more of the calling thread. */
static __noinline int plain_blocked(u64 sk)
{
	struct thread *t = thread_find((u32)bpf_get_current_pid_tgid());

	if (t && t->state == THREAD_WROTE && t->sk == sk)
		t->blocked = 1;
	return 0;
}

/* The calling thread has written to a socket, and f begins with that; 0: no flight does. */
static __noinline int go_wrote(struct flight *f)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, number;
	struct go_process *p = go_process_find(tgid);
	struct go_trip t;

	if (!p)
		return 0;
	number = go_number(goroutine(), p->goid);
	if (!number)
		return 0;
	if (trip_take(trip_written(tgid, number), &t)) {
		if (!f || f->send_pid) {
			lose(LOSS_GO);
			return 0;
		}
		__sync_fetch_and_add(&go_binary(t.binary)->tied, 1);
		*go_parent(f) = t.parent;
		number = t.caller | GOROUTINE_ASKED;
	}
	if (f && !f->send_pid)
		f->send_tid = number | GOROUTINE;
	return 0;
}

/* The calling thread has read the first bytes of a flight, or more, from a socket: within a TLS library, of which plaintext will come? */
static __noinline int plain_reads(struct flight *f, u64 sk)
{
	struct thread *t = thread_find((u32)bpf_get_current_pid_tgid());

	if ((!t || t->state != THREAD_READS) && *(volatile u32 *)&mw_control.tls & TLS_GO)
		t = goroutine_find();
	if (!t || t->state != THREAD_READS)
		return 0;
	t->sk = sk;
	if (f && (f->flags & (FLIGHT_OPAQUE | FLIGHT_PLAIN)) == FLIGHT_OPAQUE)
		f->flags |= FLIGHT_AWAITS;
	return 0;
}
