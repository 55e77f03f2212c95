// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* The two ends of a flight (tp_btf, Linux 6.3 for sock_send_length and sock_recv_length): which thread wrote it, when it came to the
 * receiving socket, which thread read it and when. Writing and reading fire in the thread that makes the call, after the socket
 * is unlocked.
 */
#include "c/calls.h"
#include "c/inject.h"
#include <bpf/bpf_tracing.h>

static __always_inline int is_tcp(struct sock *sk)
{
	/* not the sockets that programs have of MPTCP: their struct sock is no tcp_sock */
	return sk && sk->sk_protocol == IPPROTO_TCP &&
	       (sk->__sk_common.skc_family == AF_INET || sk->__sk_common.skc_family == AF_INET6);
}

/* A write of HTTP/2 that returned has several flights. */
struct pieces {
	struct flight *f; /* the latest one that is not done */
	u64 now;
	u64 who;
	u32 start; /* of the write */
};

/* Callback of bpf_loop; 1 ends it. */
static long piece_written(u32 i, void *ctx)
{
	struct pieces *p = ctx;
	struct flight *f = p->f;

	if (!f || seq_diff(f->seq, p->start) < 0)
		return 1;
	f->send_ns = p->now;
	f->send_pid = p->who >> 32;
	f->send_tid = (u32)p->who;
	p->f = flight_by_id(f->prev);
	return 0;
}

static __noinline void pieces_written(struct flight *f, u32 start)
{
	struct pieces p = {.f = f, .now = bpf_ktime_get_ns(), .who = bpf_get_current_pid_tgid(), .start = start};

	bpf_loop(CONT_LIMIT + 1, piece_written, &p, 0);
}

/* How much longer than the writer knows a write became that seems to begin at start. */
static __noinline u32 injected_bytes(struct sock *sk, u32 start)
{
	struct conn *c = bpf_sk_storage_get(&mw_conns, sk, 0, 0);

	return c && c->added && c->at + INJECTED_BYTES == start ? INJECTED_BYTES : 0;
}

/* A write returned: ret bytes up to write_seq, and what inject.bpf.c has put into it. */
SEC("tp_btf/sock_send_length")
int BPF_PROG(mw_send, struct sock *sk, int ret, int flags)
{
	struct tcp_sock *tp;
	struct socket *s;
	struct flight *f;
	u32 upto, start;
	u64 who;

	if (ret <= 0 || !enabled() || !is_tcp(sk)) {
		if (unlikely(ret == -EAGAIN && tls_probed()))
			plain_blocked(sock_id(sk));
		return 0;
	}
	s = socket_find(sock_id(sk));
	if (!s)
		return 0;
	tp = CAST(sk, struct tcp_sock);
	upto = tp->write_seq;
	start = upto - ret;
	if (unlikely(*(volatile u32 *)&mw_control.inject))
		start -= injected_bytes(sk, start);
	f = flight_by_id(s->out_id);
	if (unlikely(tls_probed())) { /* ahead of the mark that the write has returned: then the record can be read */
		struct wrote w = {sk, s, f, start, ret, start == s->next && seq_diff(tp->snd_nxt, start) <= 0};

		plain_wrote(&w);
	}
	if (unlikely(*(volatile u32 *)&mw_control.go)) /* likewise */
		go_wrote(f && f->seq == start ? f : 0);
	if (f && !(f->flags & FLIGHT_SYN) && seq_diff(start, f->seq) >= 0) {
		f->end = upto; /* taken back by flight_start if another flight begins with it later */
		if (f->seq == start || !s->turned) {
			f->send_ns = bpf_ktime_get_ns();
			if (!f->send_pid) {
				who = bpf_get_current_pid_tgid();
				f->send_pid = who >> 32;
				if (!f->send_tid)
					f->send_tid = (u32)who;
			}
			if (f->flags & (FLIGHT_HTTP | FLIGHT_OPAQUE | FLIGHT_FRAMES))
				s->raw_run = 0;
		}
	} else if (unlikely(f && f->flags & FLIGHT_FRAMES && s->pieces && seq_diff(upto, f->seq) > 0)) {
		f->end = upto;
		pieces_written(f, start);
	}
	/* queued behind the window, or corked with its neighbours: its first packet comes later */
	if ((!f || f->seq != start) && start == s->next && seq_diff(tp->snd_nxt, start) <= 0 &&
	    (!s->pending || seq_diff(tp->snd_nxt, s->pend) > 0)) {
		s->pend = start;
		s->pending = 1;
	}
	s->next = upto;
	return 0;
}

#define ACK_BEHIND 65536 /* bytes that a socket has sent since its peer acknowledged: more only where both sides send at once */

/* The flight that starts at seq of what a socket receives. */
static __always_inline struct flight *socket_flight(struct sock *sk, u32 seq, u64 **entry)
{
	return index_find(seq, bpf_ntohs(sk->__sk_common.skc_dport), sk->__sk_common.skc_num, CAST(sk, struct tcp_sock)->snd_nxt, ACK_BEHIND, entry);
}

/* Ends a flight that nobody will read: there is nothing more to find. */
static __noinline void flight_unread(struct flight *f, u64 now, u32 netns, u64 end)
{
	u64 *entry = index_entry(f->seq);

	if (entry && (u32)(*entry >> 32) == (u32)f->id)
		*entry = 0;
	no_receiver(f, now);
	f->recv_netns = netns;
	f->recv_end_ns = end;
	if (!f->send_ns)
		f->send_ns = now;
	barrier();
	f->recv_ns = now;
}

/* A flight has come to a socket of MPTCP, of which no program is seen to read: there is no message. */
static __noinline void flight_retract(struct flight *f)
{
	f->flags = FLIGHT_CLOSE;
	flight_unread(f, bpf_ktime_get_ns(), 0, 0);
}

/* A segment has come to the socket it is for. Its sequence numbers are in struct tcp_skb_cb, which begins with them (net/tcp.h). */
SEC("tp_btf/tcp_probe")
int BPF_PROG(mw_arrive, struct sock *sk, struct sk_buff *skb)
{
	u32 seq = *(u32 *)skb->cb, end = *(u32 *)(skb->cb + 4), n;
	struct flight *f;
	u64 *entry;

	if (seq == end || !enabled())
		return 0;
	f = socket_flight(sk, seq, &entry);
	if (!f)
		return 0;
	if (unlikely(is_mptcp(sk))) {
		flight_retract(f);
		return 0;
	}
	n = f->nstamps - 1;
	if (n < MAX_STAMPS && f->stamps[n].place >> 28 == HOOK_DELIVERED) /* a netfilter hook has said it */
		return 0;
	stamp_at(f, bpf_ktime_get_ns(), place(HOOK_DELIVERED, sk->__sk_common.skc_net.net->ns.inum, skb->skb_iif));
	return 0;
}

static __always_inline void received(struct flight *f, struct sock *sk, u64 now)
{
	u64 who = bpf_get_current_pid_tgid();

	f->recv_end_ns = now;
	f->recv_sk = sock_id(sk);
	f->recv_pid = who >> 32;
	f->recv_tid = (u32)who;
	f->recv_netns = sk->__sk_common.skc_net.net->ns.inum;
	f->recv_port = sk->__sk_common.skc_num;
	f->recv_peer = bpf_ntohs(sk->__sk_common.skc_dport);
	if (unlikely(speaks_ipv6(sk))) {
		copy_addr(f->recv_addr, &sk->__sk_common.skc_v6_rcv_saddr);
		copy_addr(f->recv_paddr, &sk->__sk_common.skc_v6_daddr);
		f->flags |= FLIGHT_RECV_IPV6;
	} else {
		f->recv_addr4 = sk->__sk_common.skc_rcv_saddr;
		f->recv_paddr4 = sk->__sk_common.skc_daddr;
	}
	barrier();
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

/* The flight that starts at r->at. */
static __always_inline struct flight *read_find(const struct reading *r, u64 **entry)
{
	return socket_flight(r->sk, r->at, entry);
}

/* Ends a flight; false when it is not for this socket. */
static __always_inline int read_end(struct reading *r, struct flight *f, u64 *entry)
{
	/* its acknowledgement must lie within what this socket has sent lately: with both directions full and a slow reader tens of MB
	 * pass while it waits */
	if (unlikely(CAST(r->sk, struct tcp_sock)->snd_nxt - f->ack > 1 << 28)) {
		lose(LOSS_AMBIGUOUS);
		return 0;
	}
	*entry = 0;
	f->recv_upto = r->upto;
	received(f, r->sk, r->now);
	r->s->in_id = (u32)f->id;
	r->at = f->end;
	return 1;
}

/* Callback of bpf_loop; 1 ends it. */
static long read_flight(u32 i, void *ctx)
{
	struct reading *r = ctx;
	struct flight *f;
	u64 *entry;

	if (seq_diff(r->upto, r->at) <= 0)
		return 1;
	f = read_find(r, &entry);
	return !f || !read_end(r, f, entry);
}

#define FLIGHTS_PER_READ 64 /* that one read may end: as many as a head may have pieces */

/* The rest of a read: nothing starts at its beginning, or something begins further on. */
static __noinline void read_other(struct reading *r, int first)
{
	if (first) { /* more of the message before? Its record has left the cache, so it is asked last */
		struct flight *f = flight_by_id(r->s->in_id);

		if (!f || f->recv_upto != r->at)
			return;
		f->recv_upto = r->upto;
		f->recv_end_ns = r->now;
		if (seq_diff(f->end, r->at) <= 0) /* of a write that has not returned yet */
			return;
		r->at = f->end;
	}
	bpf_loop(FLIGHTS_PER_READ, read_flight, r, 0);
}

/* A read returned ret bytes up to copied_seq. It may cover several flights, and a flight may take several reads. */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(mw_recv, struct sock *sk, int ret, int flags)
{
	struct reading r = {.sk = sk}, copy;
	struct tcp_sock *tp;
	struct flight *f;
	int none;
	u64 *entry;

	if (ret <= 0 || flags & MSG_PEEK || !enabled() || !is_tcp(sk))
		return 0;
	tp = CAST(sk, struct tcp_sock);
	r.upto = tp->copied_seq;
	if (sk->sk_shutdown & RCV_SHUTDOWN && r.upto == tp->rcv_nxt)
		r.upto--; /* a FIN was read with the last bytes, and counts as one */
	r.at = r.upto - ret;
	touch(socket_first(sock_id(sk)));
	f = read_find(&r, &entry);
	r.s = socket_find(sock_id(sk)) ?: socket_make(sk, tp->write_seq);
	r.s->turned = 1;
	r.now = bpf_ktime_get_ns();
	if (unlikely(*(volatile u32 *)&mw_control.tls & TLS_READS)) /* ahead of the mark that it was read */
		plain_reads(f, r.s->sk);
	none = !f || !read_end(&r, f, entry);
	if (unlikely(none || seq_diff(r.upto, r.at) > 0)) {
		copy = r; /* so that r itself can stay in registers */
		read_other(&copy, none);
	}
	return 0;
}

/* Ends the SYN of a socket that waits no more for its answer: it has come, or nobody waits for it. */
static __noinline void syn_over(const struct socket *s)
{
	struct flight *f = flight_by_id(s->out_id);
	u64 now = bpf_ktime_get_ns();

	if (!f || !(f->flags & FLIGHT_SYN) || f->recv_ns)
		return;
	f->send_ns = now;
	flight_unread(f, now, f->send_netns, now);
}

/* Ends TLS's last word, which is seldom read: as long as it is not over it takes the place of flights that go on. Of a message, and in clear
 * text, it matters that nobody has read it. */
static __noinline void alert_unread(struct flight *f)
{
	if (!f || f->recv_ns || (f->flags & (FLIGHT_OPAQUE | FLIGHT_PLAIN)) != FLIGHT_OPAQUE)
		return;
	f->recv_upto = f->end;
	flight_unread(f, bpf_ktime_get_ns(), 0, 0);
}

/* Connections open and close: the state starts exact, and a recycled struct sock does not inherit any. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(mw_state, struct sock *sk, int oldstate, int newstate)
{
	struct tcp_sock *tp;
	struct socket *s;
	u64 *entry;

	if ((newstate != TCP_ESTABLISHED && newstate != TCP_CLOSE) || !enabled() || !is_tcp(sk))
		return 0;
	s = socket_find(sock_id(sk));
	tp = CAST(sk, struct tcp_sock);
	if (s && oldstate == TCP_SYN_SENT)
		syn_over(s);
	if (newstate == TCP_CLOSE) {
		if (tp->copied_seq != tp->rcv_nxt)
			alert_unread(socket_flight(sk, tp->copied_seq, &entry));
		if (!s)
			return 0;
		if (sk->sk_err)
			alert_unread(flight_by_id(s->out_id));
		if (s->out_id || s->in_id)
			flight_close(s, bpf_ktime_get_ns(), sk->sk_err != 0);
		s->sk = 0;
		return 0;
	}
	if (!s)
		socket_make(sk, tp->write_seq);
	else
		s->next = tp->write_seq;
	return 0;
}

char _license[] SEC("license") = "GPL";
