/* SPDX-License-Identifier: GPL-2.0 */
/* Calls of a TLS library that have not written all, as the socket took no more, and are made again: with the same plaintext, or more. */
#pragma once
#include "capture.h"

/* The thread makes another call. Has the latest one not written all, then it will be made again. Not by Go, which waits within a call; and
 * not if something was written that was not tied: that was it.
 */
static __noinline int plain_stalls(struct thread *t)
{
	struct stalled *k = stalled_at(t->object);

	if (t->state != THREAD_WRITES && (t->state != THREAD_WROTE || !t->blocked))
		return 0;
	if (t->go || t->other) {
		lose(LOSS_PLAIN_TIE);
		return 0;
	}
	if (k->object && k->object != t->object)
		lose(LOSS_PLAIN_TIE);
	k->sk = t->sk;
	k->first = t->first;
	k->left = t->left;
	k->more_num = k->more_len = 0;
	k->len = t->len;
	k->num = t->before + t->num;
	k->tied = t->state == THREAD_WROTE || t->before;
	if (t->state == THREAD_WRITES && t->before) {
		k->num = t->before;
		k->more_num = t->num;
		k->more_len = t->len;
	} else if (t->state == THREAD_WRITES && t->more_len) {
		k->more_num = t->more_num;
		k->more_len = t->more_len;
	}
	k->object = t->object;
	return 0;
}

/* What is known of a call that is made again; 0: this one is not. */
static __always_inline struct stalled *plain_again(u64 object, u64 num, u32 first)
{
	struct stalled *k = stalled_at(object);

	if (k->object != object)
		return 0;
	if (k->first == first && k->num + k->more_num <= num)
		return k;
	k->object = 0;
	lose(LOSS_PLAIN_TIE);
	return 0;
}

/* A call is made again: the library writes what is left of what the first one had, and then what later ones had more. Captures both, or the
 * latter where the former is tied. How many bytes, or 0. Of more than one record, only the first was made when the call stalled: what later
 * ones had more begins within a record, of which nobody knows which it is. So it is left out, unless nothing is tied: then it is all one write.
 */
static __noinline u32 plain_more(struct thread *t, struct stalled *k, const void *buf, struct write *w, u32 *pos)
{
	u32 had = k->num + k->more_num, more_num = w->num - k->num, more_len = k->more_len, len;
	struct write more = {.num = w->num - had};
	u64 object = k->object;

	k->object = 0;
	t->sk = k->sk;
	t->left = k->left;
	if (more.num && first_bytes(&more.first, buf + had, more.num)) {
		len = plain_capture(object, buf + had, &more, pos);
		if (len)
			more_len = k->more_num + len;
	}
	if (k->more_num && more_len) /* with what was captured before */
		more_len = plain_copy(buf + k->num, more_len < FRAMES_BYTES ? more_len : FRAMES_BYTES, pos);
	if (k->tied) {
		t->before = k->num;
		w->num = more_num;
		if (k->num <= RECORD_BYTES || !more_num)
			return more_len;
		lose(LOSS_PLAIN_TIE);
		return 0;
	}
	if (k->num > RECORD_BYTES) {
		len = k->len < k->num ? k->len : k->num + more_len;
		return plain_copy(buf, len < FRAMES_BYTES ? len : FRAMES_BYTES, pos);
	}
	t->more_num = more_num;
	t->more_pos = *pos;
	t->more_len = more_len;
	w->num = k->num;
	return plain_copy(buf, k->len, pos);
}
