/* SPDX-License-Identifier: GPL-2.0 */
/* What is copied of plaintext, where a TLS library takes or gives it. */
#pragma once
#include "frames.h"

static __always_inline u32 object_now(void)
{
	return bpf_ktime_get_ns() >> 24;
}

/* Makes the place its that was not used for longest. 0: another connection has just got it. */
static __noinline struct object *object_take(u64 object)
{
	struct object_set *set = objects_of(object);
	struct object *o = &set->o[0];
	u32 now = object_now();
	u64 before;

#pragma clang loop unroll(full)
	for (int i = 1; i < OBJECT_WAYS; i++)
		if (now - set->o[i].used > now - o->used)
			o = &set->o[i];
	before = o->object;
	if (before && now - o->used < 60000 / 16)
		lose(LOSS_PLAIN_OBJECTS);
	return __sync_val_compare_and_swap(&o->object, before, object) == before ? o : 0;
}

/* How much of a write is worth copying: a head, or HTTP/2's frames. object is the connection's; 0: it is a read. */
static __always_inline u32 plain_wanted(u64 object, const u8 *buf, struct write *w)
{
	u32 kind = kind_of(w->first), begins;
	struct object *o;

	if (!object)
		return kind == FLIGHT_FRAMES ? FRAMES_BYTES : HEAD_BYTES;
	begins = kind == FLIGHT_FRAMES && connection_begins(buf, w->num, w->first);
	o = object_find(object);
	if (!o || begins) {
		if (kind != FLIGHT_FRAMES)
			return HEAD_BYTES;
		if (!o)
			o = object_take(object);
		if (!o)
			return FRAMES_BYTES;
		o->used = object_now();
		o->rest = 0;
		o->have = 0;
		o->start = 0;
		o->known = begins;
		w->of = o;
		w->at = (u32)w->first == PREFACE_START ? PREFACE : 0;
		return FRAMES_BYTES;
	}
	if (kind == FLIGHT_HTTP && !o->rest) { /* used again by another connection */
		o->object = 0;
		return HEAD_BYTES;
	}
	o->used = object_now();
	w->of = o;
	return frames_wanted(w);
}

/* Copies len bytes of plaintext into `heads`. 0: they cannot be read. */
static __always_inline u32 plain_copy(const void *buf, u32 len, u32 *pos)
{
	if (len - 1 >= FRAMES_BYTES) /* for the verifier */
		return 0;
	if (bpf_probe_read_user(claim_head(len, pos), len, buf)) {
		lose(LOSS_PLAIN_COPY);
		return 0;
	}
	return len;
}

/* Copies what is worth it of a write, or of a read. How many bytes, and where, or 0. */
static __always_inline u32 plain_capture(u64 object, const void *buf, struct write *w, u32 *pos)
{
	u32 len = plain_wanted(object, buf, w);

	len = plain_copy(buf, len < w->num ? len : w->num, pos);
	w->pos = *pos;
	w->copied = len;
	frames_follow(w);
	return len;
}

static __always_inline int first_bytes(u64 *first, const void *buf, u32 num)
{
	*first = 0;
	if (!bpf_probe_read_user(first, num < 8 ? num & 7 : 8, buf))
		return 1;
	lose(LOSS_PLAIN_COPY);
	return 0;
}
