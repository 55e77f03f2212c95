/* SPDX-License-Identifier: GPL-2.0 */
/* What is known of a connection into whose requests ids are put. Written by inject.bpf.c; the recorder reads from it how much longer a
 * write became.
 */
#pragma once
#include "flight.h"

#define INJECTED_BYTES 52 /* of the line: "X-Request-ID: ", a UUID, CR LF */

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
	u8 pad[3];
};

struct conn {
	u64 cookie; /* of the socket */
	u32 next;  /* sequence number at which the next request begins */
	u32 netns; /* inode number */
	u32 at;	   /* where the latest write began that has a line more than its writer knows */
	u8 done;   /* nobody is sure any more where requests begin, or what they are: the connection is left alone for good */
	u8 added;  /* the write at `at` is INJECTED_BYTES longer */
	struct scan scan; /* here, as the verifier then asks for less than of the stack. The socket's lock is held */
};

/* Socket → its connection. Made when a connection to the own sidecar opens, gone with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct conn);
} mw_conns SEC(".maps");
