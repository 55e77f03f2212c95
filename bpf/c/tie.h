/* SPDX-License-Identifier: GPL-2.0 */
/* Which flight plaintext went out in: the one that begins with the write of the thread that has the plaintext, if its ciphertext has a
 * record of that length.
 */
#pragma once
#include "plain.h"

/* Plaintext of a write that was queued: its first packet comes when the window opens. */
struct parked {
	u64 sk; /* sock_id, 0: free */
	u32 seq;
	u32 pos;
	u32 num;
	u16 len; /* 0: the plaintext has a record of its own */
	u16 binary;
	u32 wire; /* bytes of the write */
	u32 pid, tid;
	u32 pad;
};

#define PARKED 2048 /* writes that wait so: a burst on a fresh connection is longer than its window */

/* hash(sequence) → what waits. Deleted by the flight's start; overwritten, counted. */
struct parked mw_parked[1] SHARED(mw_parked) = {};

#define RECORD_HEADER 5	     /* RFC 8446 §5.1 */
#define RECORD_APPLICATION 23
#define RECORD_OVERHEAD 16   /* an authentication tag at least */
#define RECORD_OVERHEAD_MAX 80 /* of CBC with SHA-384 and its padding */
#define RECORD_SMALL 1024    /* libraries that make several records of one write make them larger than this */
#define RECORDS 6	     /* in one packet: the session tickets that go out with a server's first answer, and that */

static __always_inline u32 record_length(const u8 *r)
{
	return r[1] == 3 && r[0] >= 20 && r[0] <= RECORD_APPLICATION ? (u32)r[3] << 8 | r[4] : 0;
}

static __always_inline int length_fits(u32 len, u32 num)
{
	return len <= num + RECORD_OVERHEAD_MAX && len >= (num < RECORD_SMALL ? num : RECORD_SMALL) + RECORD_OVERHEAD;
}

/* Whether the first or the last record of a flight's first packet can be the first of num bytes of plaintext. */
static __noinline int record_fits(const struct flight *f, u32 num)
{
	const u8 *r = (const u8 *)section(mw_heads) + (f->head_pos & (HEADS_SIZE - 1));

	if (f->head_len < RECORD_HEADER)
		return 0;
	return (r[0] == RECORD_APPLICATION && length_fits(record_length(r), num)) || length_fits(f->plain_len, num);
}

/* Whether it can be of any part of them: in a call that is made again with more, a record may have been made before that was added. */
static __always_inline int record_within(const struct flight *f, u32 num)
{
	const u8 *r = (const u8 *)section(mw_heads) + (f->head_pos & (HEADS_SIZE - 1));

	return f->head_len >= RECORD_HEADER && r[0] == RECORD_APPLICATION && record_length(r) <= num + RECORD_OVERHEAD_MAX;
}

/* Bytes of the record that a flight begins with. */
static __always_inline u32 record_first(const struct flight *f)
{
	return RECORD_HEADER + record_length((const u8 *)section(mw_heads) + (f->head_pos & (HEADS_SIZE - 1)));
}

/* Gives a flight its plaintext in place of the ciphertext captured. The length is written last: whoever reads meanwhile sees none. */
static __always_inline void plain_tie(struct flight *f, u32 pos, u32 len, u32 num)
{
	*(volatile u16 *)&f->head_len = 0;
	f->head_pos = pos;
	f->plain_len = num;
	f->flags |= FLIGHT_PLAIN | FLIGHT_HEAD_END;
	barrier();
	*(volatile u16 *)&f->head_len = len;
}

static __always_inline void tied(u32 binary)
{
	__sync_fetch_and_add(&tls_binary(binary)->tied, 1);
}

static __always_inline struct parked *parked_at(u32 seq)
{
	return (struct parked *)section(mw_parked) + (hash32(seq) >> 16 & (PARKED - 1));
}
