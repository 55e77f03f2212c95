/* SPDX-License-Identifier: GPL-2.0 */
/* What bytes look like. */
#pragma once
#include "flight.h"

#define PREFACE_START 0x20495250 /* "PRI ", HTTP/2's preface (RFC 9113 §3.4) */

/* Whether eight bytes may begin an HTTP/2 frame: length, which the default limit keeps within 2^14, type, and flags (RFC 9113 §4.1, §6).
 * An empty DATA frame does nothing but end its stream: payloads of zeros are common, and are none. */
static __always_inline u32 frame_begins(u64 b)
{
	u32 len = (b & 0xff00) | (b >> 16 & 0xff), flags = b >> 32 & 0xff;

	if (b & 0xff || len > 1 << 14)
		return 0;
	switch (b >> 24 & 0xff) {
	case 0: /* DATA */
		return !(flags & ~0x9) && (len > 0 || flags == 1);
	case 1: /* HEADERS */
		return !(flags & ~0x2d) && len > 0;
	case 3: /* RST_STREAM */
	case 8: /* WINDOW_UPDATE */
		return !flags && len == 4;
	case 4: /* SETTINGS */
		return !(flags & ~1) && len % 6 == 0;
	case 6: /* PING */
		return !(flags & ~1) && len == 8;
	case 7: /* GOAWAY */
		return !flags && len >= 8;
	case 9: /* CONTINUATION */
		return !(flags & ~4) && len > 0;
	}
	return 0;
}

/* What a message's first eight bytes, read little-endian, say it is: FLIGHT_HTTP, FLIGHT_OPAQUE, FLIGHT_FRAMES or 0. */
static __noinline u32 kind_of(u64 bytes)
{
	u32 b = bytes;

	switch (b) {
	case 0x20544547: /* "GET " */
	case 0x54534f50: /* "POST" */
	case 0x20545550: /* "PUT " */
	case 0x44414548: /* "HEAD" */
	case 0x454c4544: /* "DELE" */
	case 0x4954504f: /* "OPTI" */
	case 0x43544150: /* "PATC" */
	case 0x4e4e4f43: /* "CONN" */
	case 0x43415254: /* "TRAC" */
	case 0x50545448: /* "HTTP" */
		return FLIGHT_HTTP;
	case PREFACE_START:
		return FLIGHT_FRAMES;
	}
	/* A TLS record header: type 20 to 23, legacy version 3.0 to 3.4 (RFC 8446 §5.1). */
	if ((b & 0xff) >= 20 && (b & 0xff) <= 23 && (b >> 8 & 0xff) == 3 && (b >> 16 & 0xff) <= 4)
		return FLIGHT_OPAQUE;
	return frame_begins(bytes) ? FLIGHT_FRAMES : 0;
}
