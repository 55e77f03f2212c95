/* SPDX-License-Identifier: GPL-2.0 */
/* What TLS libraries were given. A probe at the library's write copies the plaintext and leaves it with the thread; the socket call
 * that the same thread makes inside ties it to the flight (tie.h). No field of the library's objects is read.
 */
#pragma once
#include "start.h"

enum thread_state {
	THREAD_IDLE,
	THREAD_BEGINS, /* its plaintext is being copied */
	THREAD_WRITES, /* plaintext waits for the write that it goes out with */
	THREAD_WROTE,  /* it is tied; further records of the same call follow */
	THREAD_READS,
};

/* A thread in a call of a TLS library, until its next call. */
struct thread {
	u64 object; /* SSL *, or Go's *tls.Conn, in its process: object_of */
	u32 tid;    /* or what stands for a goroutine, which may leave its thread */
	u32 pos;    /* of the plaintext in `heads` */
	u32 num;    /* bytes of plaintext in this call */
	u16 len;    /* captured of it */
	u16 binary; /* whose probe it was: index of mw_tls */
	u8 state;   /* enum thread_state */
	u8 blocked; /* what is tied has not all been written: the call will be made again, with the same plaintext */
	u8 other;   /* it has written something to a socket with TLS that was not tied */
	u8 pad;
	u16 left;     /* bytes of records, at least, that are still to be written of what is tied */
	u16 more_len; /* of a call that was made again with more: captured of that, which is written after what the first one had */
	union {
		u64 buf;   /* where a read puts plaintext, in user space */
		struct {
			u32 first;  /* what a call that writes begins with, see begins_with */
			u32 before; /* bytes of its plaintext before num: they are tied */
		};
	};
	union {
		u64 size; /* where a read puts how much, 0: it returns that */
		struct {
			u32 more_pos, more_num;
		};
	};
	u64 sk;	  /* sock_id of the socket that it read from or wrote to, 0: none yet */
	u64 go;	  /* the goroutine; 0: it is a thread */
};

#define THREAD_WAYS 4
#define THREAD_SETS 1024 /* threads that wait in a write at the same time */
struct thread_set {
	struct thread t[THREAD_WAYS];
};

/* hash(tid) → the thread's latest call. Nobody deletes; when a set is full the one whose plaintext is tied goes, else one is lost,
 * counted. */
struct thread_set mw_threads[1] SHARED(mw_threads) = {};

/* A connection of a TLS library that carries HTTP/2. */
struct object {
	u64 object; /* 0: free */
	u32 rest;   /* bytes of a frame that goes on in the next write */
	u32 start;  /* first four bytes of a frame whose header does, as far as they have come: its length and type */
	u8 have;    /* bytes of that header that have come */
	u8 known;   /* it is known where frames begin; else all is copied */
	u8 body;    /* the rest is of a DATA frame */
	u8 pad;
	u32 used;   /* when it was written to, in 16 ms */
};

/* Connections at the same time. One that loses its place has nothing told of writes that leave in the middle of a packet, and HPACK's table
 * is lost with that. Sets, as of 50 connections two have the same of 8,192 places one time in seven.
 */
#define OBJECT_WAYS 4
#define OBJECT_SETS 2048
struct object_set {
	struct object o[OBJECT_WAYS];
};

/* hash(object) → what is known of it. Nobody deletes; when a set is full the one that was not used for longest goes. */
struct object_set mw_objects[1] SHARED(mw_objects) = {};

/* A call that wrote nothing, or not all, as the socket took no more: libraries are called again then, with the same plaintext or more of
 * it, and write what the first call had, then what came with later ones.
 */
struct stalled {
	u64 object; /* 0: free */
	u64 sk;
	u32 first;
	u32 num;      /* bytes of plaintext that the first call had */
	u32 more_num; /* and that later ones had behind it */
	u16 len;      /* captured of num */
	u16 more_len; /* and of more_num */
	u16 left;     /* as thread's */
	u16 tied;     /* num is */
	u32 pad;
};

#define RECORD_BYTES 16384 /* of plaintext in a record, at most (RFC 8446 §5.1) */

#define STALLED 512 /* connections that stall at the same time; one that loses its place has its next plaintext not tied, counted */

/* hash(object) → its call that stalled. Overwritten. */
struct stalled mw_stalled[1] SHARED(mw_stalled) = {};

/* What became of the calls of one binary. */
struct tls_binary {
	u64 calls; /* in which a TLS library was given plaintext */
	u64 tied;  /* to the flight that it went out in */
};

#define TLS_BINARIES 256

/* Index given when probes are attached → counters. Read by Go. */
struct tls_binary mw_tls[1] SHARED(mw_tls) = {};

static __always_inline int tls_probed(void)
{
	return *(volatile u32 *)&mw_control.tls;
}

static __always_inline struct tls_binary *tls_binary(u32 i)
{
	return (struct tls_binary *)section(mw_tls) + (i & (TLS_BINARIES - 1));
}

static __always_inline u32 object_hash(u64 object)
{
	return hash32((u32)(object >> 4) ^ (u32)(object >> 40)) >> 16;
}

static __always_inline struct object_set *objects_of(u64 object)
{
	return (struct object_set *)section(mw_objects) + (object_hash(object) & (OBJECT_SETS - 1));
}

static __always_inline struct object *object_find(u64 object)
{
	struct object_set *set = objects_of(object);

#pragma clang loop unroll(full)
	for (int i = 0; i < OBJECT_WAYS; i++)
		if (set->o[i].object == object)
			return &set->o[i];
	return 0;
}

static __always_inline struct stalled *stalled_at(u64 object)
{
	return (struct stalled *)section(mw_stalled) + (object_hash(object) & (STALLED - 1));
}

static __always_inline struct thread_set *threads_of(u32 tid)
{
	return (struct thread_set *)section(mw_threads) + (hash32(tid) >> 12 & (THREAD_SETS - 1));
}

static __always_inline struct thread *thread_find(u32 tid)
{
	struct thread_set *set = threads_of(tid);

#pragma clang loop unroll(full)
	for (int i = 0; i < THREAD_WAYS; i++)
		if (set->t[i].tid == tid)
			return &set->t[i];
	return 0;
}

/* A goroutine stands in the table as a thread whose number no thread has. */
static __always_inline u32 goroutine_number(u64 g)
{
	return ((u32)(g >> 3) ^ (u32)(bpf_get_current_pid_tgid() >> 32)) | 1u << 31;
}
