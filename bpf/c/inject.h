/* SPDX-License-Identifier: GPL-2.0 */
/* What is known of a connection into whose requests ids are put. Written by inject.bpf.c; the recorder reads from it how much longer a
 * write became.
 */
#pragma once
#include "scan.h"

#define INJECTED_BYTES 52 /* of the line: "X-Request-ID: ", a UUID, CR LF */

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
