/* SPDX-License-Identifier: GPL-2.0 */
/* Room for what is recorded: bytes of heads, a record in the ring, an entry by which it is found. */
#pragma once
#include "flight.h"

/* Claims len bytes of `heads`. */
static __always_inline u8 *claim_head(u32 len, u32 *pos)
{
	*pos = __sync_fetch_and_add(&mw_control.head_pos, (len + 7) & ~7u);
	return (u8 *)section(mw_heads) + (*pos & (HEADS_SIZE - 1));
}

#define UNREAD 8 /* times live_ns: how long one that came to its socket, which is read late, is not overwritten if another slot is near */

/* Whether a flight is too old to wait for: it may have left the node, or have been dropped. Times of TCP's own are a little older than now. */
static __always_inline int flight_old(const struct flight *f, u64 now)
{
	s64 age = now - f->start_ns;
	u32 n = f->nstamps - 1;

	if (likely(age <= (s64)live_ns))
		return 0;
	return age > UNREAD * (s64)live_ns || n >= MAX_STAMPS || f->stamps[n].place >> 28 != HOOK_DELIVERED;
}

/* Whether the slot of f can be used again: its flight is finished, overwritten long ago or too old. */
static __always_inline int flight_over(const struct flight *f, u64 now)
{
	return !f->watched && (!f->id || (f->recv_ns && seq_diff(f->recv_upto, f->end) >= 0) || flight_old(f, now));
}

/* One of the next three slots after one that is not over, else the last of them anyway. */
static __noinline u64 flight_further(u64 now)
{
	u64 id = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 3; i++) {
		id = __sync_fetch_and_add(&mw_control.next_id, 1) + 1;
		if (flight_over(flight_slot(id), now))
			return id;
	}
	lose(LOSS_RING_LIVE);
	return id;
}

/* Claims a record. Its id is 0 until flight_publish. */
static __always_inline struct flight *flight_claim(u64 now, u64 *id)
{
	struct flight *f;

	*id = __sync_fetch_and_add(&mw_control.next_id, 1) + 1;
	f = flight_slot(*id);
	if (unlikely(!flight_over(f, now))) {
		*id = flight_further(now);
		f = flight_slot(*id);
	}
	*(volatile u64 *)&f->id = 0;
	barrier();
	return f;
}

static __always_inline void flight_publish(struct flight *f, u64 id)
{
	barrier();
	*(volatile u64 *)&f->id = id;
}

/* The entry of a set whose usual one is taken: that of the same sequence number, else a free one, else the oldest. */
static __noinline u64 *index_other(u32 seq, u32 id)
{
	struct index_set *set = index_of(hash32(seq));
	u64 *to = &set->e[0];
	struct flight *f;
	u32 age = 0;

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
	f = *to ? flight_by_id(*to >> 32) : 0;
	if (f && !f->recv_ns)
		lose(LOSS_INDEX_FULL);
	return to;
}

/* Makes a flight findable. */
static __always_inline void index_insert(u32 seq, u32 id)
{
	u64 *to = index_first(seq);

	if (unlikely(*to))
		to = index_other(seq, id);
	*to = (u64)id << 32 | seq;
}

/* Says that nobody has read this flight's message. */
static __always_inline void no_receiver(struct flight *f, u64 now)
{
	f->recv_sk = 0;
	f->recv_pid = f->recv_tid = f->recv_netns = 0;
	f->recv_port = f->recv_peer = 0;
	f->recv_addr4 = f->recv_paddr4 = 0;
	f->recv_end_ns = now;
}

/* Claims a record that is no message: nobody sent it, and nobody will read it. */
static __always_inline struct flight *flight_notice(u64 now, u64 *id)
{
	struct flight *f = flight_claim(now, id);

	f->start_ns = f->send_ns = f->recv_ns = now;
	f->watched = 0;
	f->ack = 0;
	f->nstamps = 0;
	f->head_len = f->head_total = 0;
	f->send_port = f->send_peer = 0;
	f->send_pid = f->send_tid = f->send_netns = 0;
	f->send_addr4 = f->send_paddr4 = 0;
	f->retransmits = 0;
	no_receiver(f, now);
	return f;
}
