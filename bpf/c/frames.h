/* SPDX-License-Identifier: GPL-2.0 */
/* Where HTTP/2's frames begin in the writes of a TLS library, so that of bodies little is copied. */
#pragma once
#include "plain.h"

#define FRAME_HEADER 9
#define PREFACE 24
#define TYPE_HEADERS 1
#define FRAME_START 64 /* of a DATA frame: its header, and that of a gRPC message */
#define FRAME_REST 8   /* of a write within one: the rest of that header */
#define FRAMES_WALKED 4096 /* in one write: smaller ones than fit */

/* One write of a connection that carries HTTP/2. */
struct write {
	u64 first;	   /* its first eight bytes */
	struct object *of; /* 0: it is no such connection's, or its read */
	u32 num;
	u32 at;	 /* where the next frame begins; more than num: in a later write */
	u32 pos; /* of the copy in `heads` */
	u32 copied;
};

/* Whether bytes begin a connection: its preface, or the server's SETTINGS. */
static __always_inline int connection_begins(const u8 *buf, u32 num, u64 first)
{
	u8 stream = 0xff;

	if ((u32)first == PREFACE_START)
		return 1;
	if (num < FRAME_HEADER || first >> 24 != 4 || !frame_begins(first)) /* SETTINGS without flags, of stream 0 */
		return 0;
	return !bpf_probe_read_user(&stream, 1, buf + 8) && !stream;
}

/* A frame's length with its header, of which `first` has four bytes. */
static __always_inline u32 frame_length(u32 first)
{
	return FRAME_HEADER + (first >> 8);
}

/* How much of a write is worth copying: all frames that stand in it; but of a DATA frame that is the last, its beginning. Sets
 * w->at behind what need not be looked at any more.
 */
static __always_inline u32 frames_wanted(struct write *w)
{
	struct object *o = w->of;
	u32 start = o->start, have = o->have;

	w->at = 0;
	if (o->known && o->rest) {
		w->at = o->rest;
		return w->at < w->num || !o->body ? FRAMES_BYTES : FRAME_REST;
	}
	o->have = 0;
	o->start = 0;
	if (!o->known || w->num < FRAME_HEADER) {
		o->known = 0;
		return FRAMES_BYTES;
	}
	if (have < 4)
		start |= bpf_ntohl((u32)w->first) >> 8 * have;
	w->at = frame_length(start) - have;
	o->body = !(start & 0xff);
	return w->at < w->num || !o->body ? FRAMES_BYTES : FRAME_START;
}

/* Goes on to the next frame. Callback of bpf_loop; 1 ends it. */
static long frame_walk(u32 i, void *ctx)
{
	struct write *w = ctx;
	struct object *o = w->of;
	u32 at = w->at, left = w->num - at, start;
	const u8 *b;

	if (at >= w->num || at + (left < 4 ? left : 4) > w->copied || !o)
		return 1;
	b = (const u8 *)section(mw_heads) + (w->pos & (HEADS_SIZE - 1));
	asm volatile("" : "+r"(at)); /* the verifier sees this check alone */
	if (at > FRAMES_BYTES - 8)
		return 1;
	b += at;
	start = (u32)b[0] << 24 | (left > 1 ? (u32)b[1] << 16 : 0) | (left > 2 ? (u32)b[2] << 8 : 0) | (left > 3 ? b[3] : 0);
	if (left < FRAME_HEADER) {
		o->have = left;
		o->start = start;
		w->at = w->num;
		return 1;
	}
	if (!o->known && !frame_begins((u64)b[4] << 32 | bpf_ntohl(start)))
		return 1;
	w->at = at + frame_length(start);
	o->body = !(start & 0xff);
	return 0;
}

/* Notes where the next write's first frame begins. */
static __noinline int frames_follow(struct write *w)
{
	struct object *o = w->of;

	if (!o || (!o->known && (w->first >> 24 & 0xff) != TYPE_HEADERS))
		return 0;
	bpf_loop(FRAMES_WALKED, frame_walk, w, 0);
	o->known = w->at >= w->num;
	o->rest = o->known ? w->at - w->num : 0;
	return 0;
}
