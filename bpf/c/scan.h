/* SPDX-License-Identifier: GPL-2.0 */
/* What is known of a head while it is looked at (read.h looks), and what may come of that. */
#pragma once
#include "flight.h"

/* What became of requests and connections. Index of the per-CPU array `mw_injections`; Go names them in inject.go. */
enum outcome {
	OUTCOME_CONNECTION,   /* a connection to the own sidecar was opened */
	OUTCOME_INJECTED,     /* a request was given an id */
	OUTCOME_HAS_ID,	      /* a request has one */
	OUTCOME_BUSY,	      /* bytes before the request were not sent yet, or the socket is closing: it has none */
	OUTCOME_LONG_LINE,    /* a request line longer than LINE_LIMIT: it has none */
	OUTCOME_NO_MEMORY,    /* the kernel had no memory for it: it has none */
	OUTCOME_NOT_HTTP,     /* from here on, the connection is left alone: it does not begin as a request of HTTP/1 */
	OUTCOME_ODD_HEAD,     /* a head that not everybody reads alike */
	OUTCOME_SPLIT_HEAD,   /* a head that is not whole in one write */
	OUTCOME_LONG_HEAD,    /* a head longer than HEAD_LIMIT */
	OUTCOME_BODY_UNKNOWN, /* a body whose end is not known */
	OUTCOME_PIPELINED,    /* a write goes on behind its first request */
	OUTCOME_TUNNEL,	      /* CONNECT, or an upgrade */
	OUTCOME_LOST_TRACK,   /* bytes were written past the end of a request */
	OUTCOME_BLOCKING,     /* of a connection to the own sidecar: reads of its socket wait in the kernel */
	OUTCOME_REFUSED,      /* the kernel does not take it: there are too many, or another program has it */
	OUTCOME_MAX,
};

/* Where in a head a byte stands. */
enum part {
	PART_METHOD,
	PART_TARGET,
	PART_VERSION,
	PART_LINE_END,
	PART_NAME_START,
	PART_NAME,
	PART_VALUE,
	PART_VALUE_END,
	PART_END,
};

/* A head while it is looked at. */
struct scan {
	u64 hash; /* of the word so far */
	u64 body; /* bytes, by Content-Length */
	u32 pos;  /* bytes looked at */
	u32 line; /* bytes of the request line with its end */
	u32 head; /* bytes of the head with its end, 0: it has not ended */
	u32 word; /* bytes of the word so far; of Content-Length's value digits */
	u32 wrong; /* enum outcome, 0: nothing yet (a connection is never wrong) */
	enum part part;
	u8 is_length; /* the value is Content-Length's */
	u8 has_id;
	u8 has_length;
	u8 tunnel;
	u8 ended; /* Content-Length's digits are followed by something */
	u8 pad[7];
};
