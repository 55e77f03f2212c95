/* SPDX-License-Identifier: GPL-2.0 */
/* Looks at the head that a message of sk_msg begins with, by the rules of RFC 9112 and without their leniences. */
#pragma once
#include "scan.h"

#define HEAD_LIMIT 8192 /* bytes of a head that are looked at */
#define METHODS 7
#define FIELDS 8 /* whose presence means that there is an id */

/* Hashes of words that are looked for, set before load (words in inject.go). Names of fields in lower case. */
#define WORD_START 0xcbf29ce484222325ULL /* FNV-1a */
#define WORD_PRIME 0x100000001b3ULL

const volatile u64 id_fields[FIELDS] = {};
const volatile u64 methods[METHODS] = {}; /* but CONNECT, and TRACE, which sends the head back */
const volatile u64 word_connect = 0, word_http10 = 0, word_http11 = 0, word_length = 0, word_coding = 0, word_upgrade = 0;

static __always_inline void word(struct scan *s, u8 b)
{
	s->hash = (s->hash ^ b) * WORD_PRIME;
	s->word++;
}

static __always_inline void word_begins(struct scan *s, enum part part)
{
	s->hash = WORD_START;
	s->word = 0;
	s->part = part;
}

/* Letters, digits and !#$%&'*+-.^_`|~, RFC 9110 5.6.2. */
static __always_inline int is_token(u8 b)
{
	return b < 64 ? 0x03ff6cfa00000000ULL >> b & 1 : b < 128 && 0x57ffffffc7fffffeULL >> (b - 64) & 1;
}

static __always_inline int known_method(u64 hash)
{
	for (int i = 0; i < METHODS; i++)
		if (methods[i] == hash)
			return 1;
	return 0;
}

static __always_inline long wrong(struct scan *s, enum outcome why)
{
	s->wrong = why;
	return 1;
}

/* The request line's next byte. 1: no more is looked at. */
static __always_inline long line_byte(struct scan *s, u8 b, u32 i)
{
	switch (s->part) {
	case PART_METHOD:
		if (b != ' ') {
			if (b < 'A' || b > 'Z' || s->word == 8)
				return wrong(s, OUTCOME_NOT_HTTP);
			word(s, b);
			return 0;
		}
		if (s->hash == word_connect)
			return wrong(s, OUTCOME_TUNNEL);
		if (!known_method(s->hash))
			return wrong(s, OUTCOME_NOT_HTTP);
		word_begins(s, PART_TARGET);
		return 0;
	case PART_TARGET:
		if (b > ' ' && b < 0x7f) {
			s->word++;
			return 0;
		}
		if (b != ' ' || !s->word)
			return wrong(s, OUTCOME_ODD_HEAD);
		word_begins(s, PART_VERSION);
		return 0;
	case PART_VERSION:
		if (b != '\r') {
			if (s->word == 8)
				return wrong(s, OUTCOME_ODD_HEAD);
			word(s, b);
			return 0;
		}
		if (s->hash != word_http11 && s->hash != word_http10)
			return wrong(s, OUTCOME_NOT_HTTP);
		s->part = PART_LINE_END;
		return 0;
	default:
		if (b != '\n')
			return wrong(s, OUTCOME_ODD_HEAD);
		s->line = i + 1;
		s->part = PART_NAME_START;
		return 0;
	}
}

/* A field's name has ended. */
static __noinline int name_ended(struct scan *s)
{
	u64 h = s->hash;

	s->is_length = h == word_length;
	for (int i = 0; i < FIELDS; i++)
		if (id_fields[i] == h)
			s->has_id = 1;
	if (h == word_upgrade) {
		s->tunnel = 1;
	} else if (h == word_length) {
		if (s->has_length)
			s->wrong = OUTCOME_ODD_HEAD;
		s->has_length = 1;
	} else if (h == word_coding) {
		s->wrong = OUTCOME_BODY_UNKNOWN;
	}
	word_begins(s, PART_VALUE);
	return 0;
}

/* A byte of Content-Length's value: digits between blanks. */
static __always_inline long length_byte(struct scan *s, u8 b)
{
	if (b == ' ' || b == '\t') {
		s->ended = s->word != 0;
		return 0;
	}
	if (b < '0' || b > '9' || s->ended || s->word == 10)
		return wrong(s, OUTCOME_ODD_HEAD);
	s->body = s->body * 10 + b - '0';
	s->word++;
	return 0;
}

/* A byte of the fields. */
static __always_inline long field_byte(struct scan *s, u8 b, u32 i)
{
	switch (s->part) {
	case PART_NAME_START:
		if (b == '\r') {
			s->part = PART_END;
			return 0;
		}
		word_begins(s, PART_NAME);
		/* fall through */
	case PART_NAME:
		if (b == ':' && s->word) {
			name_ended(s);
			return s->wrong != 0;
		}
		if (!is_token(b)) /* a blank: a line that goes on with the one before, or a name that some read as another */
			return wrong(s, OUTCOME_ODD_HEAD);
		word(s, b >= 'A' && b <= 'Z' ? b | 0x20 : b);
		return 0;
	case PART_VALUE:
		if (b == '\r') {
			if (s->is_length && !s->word)
				return wrong(s, OUTCOME_ODD_HEAD);
			s->part = PART_VALUE_END;
			return 0;
		}
		if ((b < ' ' && b != '\t') || b == 0x7f)
			return wrong(s, OUTCOME_ODD_HEAD);
		return s->is_length ? length_byte(s, b) : 0;
	default:
		if (b != '\n')
			return wrong(s, OUTCOME_ODD_HEAD);
		if (s->part == PART_END) {
			s->head = i + 1;
			return 1;
		}
		s->part = PART_NAME_START;
		return 0;
	}
}

/* Whether none of eight bytes is less than `least`, at most 128, nor DEL. */
static __always_inline int plain_text(u64 w, u64 least)
{
	const u64 ones = ~0ULL / 255, tops = ones << 7;
	u64 del = w ^ ones * 0x7f;

	return !(((w - ones * least) & ~w & tops) | ((del - ones) & ~del & tops));
}

/* Eight bytes at a time, where they are of a target or a value, and nothing is to be done with any. */
static __always_inline int skip(struct scan *s, const u8 *p, const u8 *end)
{
	u64 w;

	if ((s->part != PART_VALUE && s->part != PART_TARGET) || s->is_length || p + 8 > end)
		return 0;
	w = *(u64 *)p;
	if (!plain_text(w, s->part == PART_VALUE ? ' ' : ' ' + 1) || (s->part == PART_TARGET && w & (~0ULL / 255 << 7)))
		return 0;
	s->word += 8;
	s->pos += 8;
	return 1;
}

struct scanning {
	struct sk_msg_md *ctx;
	struct scan *s;
	u64 want; /* bytes that may be looked at */
};

/* Callback of bpf_loop; 1 ends it. */
static long scan_some(u32 i, void *arg)
{
	const struct scanning *g = arg;
	struct scan *s = g->s;
	u32 at = s->pos;
	const u8 *p = (const u8 *)g->ctx->data + (at & (HEAD_LIMIT - 1)), *end = g->ctx->data_end;
	u8 b;

	if (at >= g->want || p + 1 > end)
		return 1;
	if (skip(s, p, end))
		return 0;
	b = *p;
	s->pos = at + 1;
	return s->part < PART_NAME_START ? line_byte(s, b, at) : field_byte(s, b, at);
}

/* Looks at the head that the message begins with. The outcome is wrong, or head is set, or the head is not whole. */
static __noinline int scan_head(struct sk_msg_md *ctx, struct scan *s)
{
	u32 want = ctx->size < HEAD_LIMIT ? ctx->size : HEAD_LIMIT;
	struct scanning g = {.ctx = ctx, .s = s, .want = want};

	__builtin_memset(s, 0, sizeof(*s));
	if (ctx->data + want > ctx->data_end && bpf_msg_pull_data(ctx, 0, want, 0)) {
		s->wrong = OUTCOME_NO_MEMORY;
		return 0;
	}
	word_begins(s, PART_METHOD);
	bpf_loop(want, scan_some, &g, 0);
	return 0;
}
