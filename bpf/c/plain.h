/* SPDX-License-Identifier: GPL-2.0 */
/* What TLS libraries were given. A probe at the library's write copies the plaintext and leaves it with the thread; the socket call
 * that the same thread makes inside ties it to the flight (tie.h). No field of the library's objects is read.
 */
#pragma once
#include "start.h"

enum thread_state {
	THREAD_IDLE,
	THREAD_WRITES, /* plaintext waits for the write that it goes out with */
	THREAD_WROTE,  /* it is tied; further records of the same call follow */
	THREAD_READS,
};

/* A thread in a call of a TLS library, until its next call. */
struct thread {
	u64 object; /* SSL *, or Go's *tls.Conn */
	u32 tid;    /* or what stands for a goroutine, which may leave its thread */
	u32 pos;    /* of the plaintext in `heads` */
	u32 num;    /* bytes of plaintext in this call */
	u16 len;    /* captured of it */
	u16 binary; /* whose probe it was: index of mw_tls */
	u8 state;   /* enum thread_state */
	u8 blocked; /* the socket took no more: the call will be made again, with the same plaintext */
	u8 pad[6];
	u64 buf;  /* where a read puts plaintext, in user space */
	u64 size; /* where it puts how much, 0: it returns that */
	u64 sk;	  /* sock_id of the socket that it read from, 0: none yet */
	u64 go;	  /* the goroutine; 0: it is a thread */
};

#define THREAD_WAYS 2
#define THREAD_SETS 1024 /* threads that wait in a write at the same time; 128 KB, of which a line a thread is touched */
struct thread_set {
	struct thread t[THREAD_WAYS];
};

/* hash(tid) → the thread's latest call. Nobody deletes; when a set is full the one whose plaintext is tied goes, else one is lost,
 * counted. */
struct thread_set mw_threads[1] SHARED(mw_threads) = {};

/* A connection of a TLS library that carries HTTP/2. */
struct object {
	u64 object; /* 0: free */
	u32 rest;   /* of a DATA frame that goes on in the next write */
	u32 pad;
};

#define OBJECTS 2048 /* connections at the same time; one that loses its place has its writes copied as if it were none */

/* hash(object) → what is known of it. Overwritten. */
struct object mw_objects[1] SHARED(mw_objects) = {};

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

static __always_inline struct thread_set *threads_of(u32 tid)
{
	return (struct thread_set *)section(mw_threads) + (hash32(tid) >> 12 & (THREAD_SETS - 1));
}

static __always_inline struct thread *thread_find(u32 tid)
{
	struct thread_set *set = threads_of(tid);

	if (set->t[0].tid == tid)
		return &set->t[0];
	return set->t[1].tid == tid ? &set->t[1] : 0;
}

/* A goroutine stands in the table as a thread whose number no thread has. */
static __always_inline u32 goroutine_number(u64 g)
{
	return ((u32)(g >> 3) ^ (u32)(bpf_get_current_pid_tgid() >> 32)) | 1u << 31;
}

/* The thread's place, or one that is made its. */
static __always_inline struct thread *thread_of(u32 tid)
{
	struct thread_set *set = threads_of(tid);
	struct thread *t = thread_find(tid);

	if (t)
		return t;
	t = set->t[0].state != THREAD_WRITES ? &set->t[0] : &set->t[1];
	if (t->state == THREAD_WRITES)
		lose(LOSS_PLAIN_THREADS);
	t->tid = tid;
	t->state = THREAD_IDLE;
	t->object = 0;
	return t;
}
