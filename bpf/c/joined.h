/* SPDX-License-Identifier: GPL-2.0 */
/* Writes of a TLS library that waited for the window and leave in one packet: one flight. */
#pragma once
#include "tie.h"

#define JOINED 255 /* writes in one flight */

/* The writes that wait behind one whose flight has begun and leave with it. */
struct joined {
	struct bpf_dynptr heads; /* all of them */
	const struct flight *f;
	u32 seq; /* of the next one */
	u32 num; /* bytes of plaintext so far */
	u32 len; /* captured so far, all of it but what the last one lacks */
	u32 n;
	u32 pos; /* where they are copied to */
};

static __always_inline struct parked *joined_next(const struct joined *j)
{
	struct parked *k = parked_at(j->seq);

	return j->seq != j->f->end && k->seq == j->seq && k->sk == j->f->send_sk ? k : 0;
}

/* Whether len bytes have room behind `at` others: two cases, as the verifier knows no sums. */
static __always_inline int joined_room(u32 at, u32 len)
{
	return len && ((at <= FRAMES_BYTES / 2 && len <= FRAMES_BYTES / 2) || (at <= FRAMES_BYTES - 4096 && len <= 4096));
}

/* Counts what there is. Callback of bpf_loop; 1 ends it. */
static long joined_count(u32 i, void *ctx)
{
	struct joined *j = ctx;
	struct parked *k = joined_next(j);

	if (!k || j->len != j->num || !joined_room(j->len, k->len))
		return 1;
	j->num += k->num;
	j->len += k->len;
	j->seq += k->wire;
	j->n++;
	return 0;
}

/* Copies it to one place. Callback of bpf_loop; 1 ends it. */
static long joined_copy(u32 i, void *ctx)
{
	struct joined *j = ctx;
	struct parked *k = joined_next(j);
	u32 len, at = j->len;
	u8 *to;

	if (!k)
		return 1;
	len = k->len;
	if (!joined_room(at, len))
		return 1;
	to = (u8 *)section(mw_heads) + (j->pos & (HEADS_SIZE - 1)) + at;
	if (bpf_dynptr_read(to, len, &j->heads, k->pos & (HEADS_SIZE - 1), 0))
		return 1;
	k->sk = 0;
	j->len += len;
	j->seq += k->wire;
	tied(k->binary);
	return 0;
}

/* Gives a flight that begins with a write that waited the plaintext of all that waited behind it, too. False: there is none, or not of all
 * that the flight has.
 */
static __noinline int plain_join(struct flight *f)
{
	struct joined j = {.f = f, .seq = f->seq};
	u32 num, len, n;

	bpf_loop(JOINED, joined_count, &j, 0);
	if (j.n < 2 || j.seq != f->end || bpf_dynptr_from_mem((u8 *)section(mw_heads), HEADS_SIZE + FRAMES_BYTES, 0, &j.heads))
		return 0;
	num = j.num, len = j.len, n = j.n;
	claim_head(len, &j.pos);
	j.seq = f->seq;
	j.len = 0;
	bpf_loop(JOINED, joined_copy, &j, 0);
	if (j.len != len)
		return 0;
	f->head_total = n;
	f->flags |= FLIGHT_JOINED;
	plain_tie(f, j.pos, len, num);
	return 1;
}
