// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* The two ends of a flight (tp_btf, Linux 6.3 for sock_send_length and sock_recv_length): which thread wrote it, which thread
 * read it and when. They fire in the thread that makes the call, after the socket is unlocked.
 */
#include "c/start.h"
#include <bpf/bpf_tracing.h>

static __always_inline int is_tcp(struct sock *sk)
{
	/* MPTCP listeners are the default in Go since 1.24: their struct sock is no tcp_sock */
	return sk && sk->sk_protocol == IPPROTO_TCP &&
	       (sk->__sk_common.skc_family == AF_INET || sk->__sk_common.skc_family == AF_INET6);
}

/* A write returned: ret bytes up to write_seq. */
SEC("tp_btf/sock_send_length")
int BPF_PROG(mw_send, struct sock *sk, int ret, int flags)
{
	struct tcp_sock *tp;
	struct socket *s;
	struct flight *f;
	u32 upto, start;
	u64 who;

	if (ret <= 0 || !enabled() || !is_tcp(sk))
		return 0;
	s = socket_find(sock_id(sk));
	if (!s)
		return 0;
	tp = CAST(sk, struct tcp_sock);
	upto = tp->write_seq;
	start = upto - ret;
	f = flight_by_id(s->out_id);
	if (f && f->send_sk == sock_id(sk) && !(f->flags & FLIGHT_SYN) && seq_diff(start, f->seq) >= 0) {
		f->end = upto; /* taken back by flight_start if another flight begins with it later */
		if (f->seq == start || !(s->flags & SOCKET_TURNED)) {
			f->send_ns = bpf_ktime_get_ns();
			if (!f->send_pid) {
				who = bpf_get_current_pid_tgid();
				f->send_pid = who >> 32;
				f->send_tid = (u32)who;
			}
		}
	}
	/* queued behind the window, or corked with its neighbours: its first packet comes later */
	if (start == s->next && seq_diff(tp->snd_nxt, start) <= 0 && (!f || f->seq != start) &&
	    (!(s->flags & SOCKET_PEND) || seq_diff(tp->snd_nxt, s->pend) > 0)) {
		s->pend = start;
		s->flags |= SOCKET_PEND;
	}
	s->next = upto;
	return 0;
}

static __always_inline void received(struct flight *f, struct sock *sk, u64 now)
{
	u64 who = bpf_get_current_pid_tgid();

	f->recv_sk = sock_id(sk);
	f->recv_pid = who >> 32;
	f->recv_tid = (u32)who;
	f->recv_netns = sk->__sk_common.skc_net.net->ns.inum;
	f->recv_port = sk->__sk_common.skc_num;
	f->recv_peer = bpf_ntohs(sk->__sk_common.skc_dport);
	if (sk->__sk_common.skc_family == AF_INET6) {
		copy_addr(f->recv_addr, &sk->__sk_common.skc_v6_rcv_saddr);
		copy_addr(f->recv_paddr, &sk->__sk_common.skc_v6_daddr);
		f->flags |= FLIGHT_RECV_IPV6;
	} else {
		*(u32 *)f->recv_addr = sk->__sk_common.skc_rcv_saddr;
		*(u32 *)f->recv_paddr = sk->__sk_common.skc_daddr;
	}
	f->recv_ns = now;
}

/* One read call. */
struct reading {
	struct sock *sk;
	struct socket *s;
	u64 now;
	u32 at;	  /* where the next flight in this read starts */
	u32 upto; /* exclusive */
};

/* Ends the flight that starts at r->at; 1 when there is none. Callback of bpf_loop. */
static long read_flight(u32 i, void *ctx)
{
	struct reading *r = ctx;
	struct sock *sk = r->sk;
	struct flight *f;
	u64 *entry;

	if (seq_diff(r->upto, r->at) <= 0)
		return 1;
	f = index_find(r->at, bpf_ntohs(sk->__sk_common.skc_dport), sk->__sk_common.skc_num, &entry);
	if (!f)
		return 1;
	/* its acknowledgement must lie within what this socket has sent: 16 MB is a large window */
	if (CAST(sk, struct tcp_sock)->snd_nxt - f->ack > 1 << 24) {
		lose(LOSS_AMBIGUOUS);
		return 1;
	}
	*entry = 0;
	received(f, sk, r->now);
	r->s->in_id = (u32)f->id;
	f->recv_upto = r->upto;
	*(volatile u64 *)&f->recv_end_ns = r->now;
	r->at = f->end;
	return 0;
}

#define FLIGHTS_PER_READ 64 /* that one read may end: as many as a head may have pieces */

/* A read returned ret bytes up to copied_seq. It may cover several flights, and a flight may take several reads. */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(mw_recv, struct sock *sk, int ret, int flags)
{
	struct reading r = {.sk = sk};
	struct tcp_sock *tp;
	struct flight *f;
	u32 start;

	if (ret <= 0 || flags & MSG_PEEK || !enabled() || !is_tcp(sk))
		return 0;
	tp = CAST(sk, struct tcp_sock);
	r.upto = tp->copied_seq;
	r.at = start = r.upto - ret;
	r.s = socket_find(sock_id(sk)) ?: socket_make(sock_id(sk), tp->write_seq);
	if (!r.s)
		return 0;
	r.s->flags |= SOCKET_TURNED;
	r.now = bpf_ktime_get_ns();
	f = flight_by_id(r.s->in_id);
	if (f && (f->recv_sk != sock_id(sk) || f->recv_upto != r.at))
		f = 0;
	if (f && seq_diff(f->end, r.at) > 0) {
		f->recv_upto = r.upto; /* more of the message before */
		f->recv_end_ns = r.now;
		r.at = f->end;
	}
	bpf_loop(FLIGHTS_PER_READ, read_flight, &r, 0);
	if (f && r.at == start) { /* also more of it, of a write that has not returned yet: nothing starts here */
		f->recv_upto = r.upto;
		f->recv_end_ns = r.now;
	}
	return 0;
}

/* Connections open and close: the state starts exact, and a recycled struct sock does not inherit any. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(mw_state, struct sock *sk, int oldstate, int newstate)
{
	struct socket *s;

	if ((newstate != TCP_ESTABLISHED && newstate != TCP_CLOSE) || !enabled() || !is_tcp(sk))
		return 0;
	s = socket_find(sock_id(sk));
	if (newstate == TCP_CLOSE) {
		if (!s)
			return 0;
		if (s->out_id || s->in_id)
			flight_close(s, bpf_ktime_get_ns(), sk->sk_err != 0);
		s->sk = 0;
		return 0;
	}
	if (!s)
		socket_make(sock_id(sk), CAST(sk, struct tcp_sock)->write_seq);
	else
		s->next = CAST(sk, struct tcp_sock)->write_seq;
	return 0;
}

char _license[] SEC("license") = "GPL";
