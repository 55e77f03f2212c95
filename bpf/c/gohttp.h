/* SPDX-License-Identifier: GPL-2.0 */
/* Which goroutine of a Go program a message is of. A server of net/http writes its response in the goroutine that ran the handler. A client's
 * request is written by a goroutine of the connection: probes (gohttp.bpf.c) say for whom. A goroutine is known by the number that the
 * runtime gives it, once in a process's life; no address of one is kept.
 */
#pragma once
#include "start.h"

/* A process in which goroutines' numbers can be read: one that has made a round trip. */
struct go_process {
	u32 tgid; /* 0: free */
	u16 goid; /* offsets in its struct g: of its number, */
	u16 parent; /* and of that of the goroutine that started it */
};

#define GO_WAYS 8
#define GO_SETS 128
/* One cache line. */
struct go_set {
	struct go_process p[GO_WAYS];
};

/* hash(tgid) → process. User space deletes those that are gone; when a set is full one is overwritten, counted: it comes back with its
 * next round trip.
 */
struct go_set mw_gos[1] SHARED(mw_gos) = {};

/* A request of net/http's client that is not on the wire yet. */
struct go_trip {
	u64 key; /* trip_asked, or trip_written; 0: free; GO_BUSY */
	u32 caller; /* goroutine */
	u32 parent; /* that started it */
	u32 since; /* control's: else recording was off meanwhile */
	u32 binary; /* index of mw_gohttp */
};

#define GO_BUSY 1
#define TRIP_WAYS 4
#define TRIP_SETS 512 /* for trips at the same time, each there for some microseconds */
struct trip_set {
	struct go_trip t[TRIP_WAYS];
};

/* hash(key) → trip. Deleted by the write; one that is never written stays until it is overwritten. When a set is full one is lost,
 * counted.
 */
struct trip_set mw_trips[1] SHARED(mw_trips) = {};

/* What became of the round trips of one binary. */
struct go_binary {
	u64 trips;
	u64 tied; /* to the flight that the request went out in */
};

#define GO_BINARIES 256

/* Index given when probes are attached → counters. Read by Go. */
struct go_binary mw_gohttp[1] SHARED(mw_gohttp) = {};

static __always_inline struct go_binary *go_binary(u32 i)
{
	return (struct go_binary *)section(mw_gohttp) + (i & (GO_BINARIES - 1));
}

/* In a flight's send_tid stands the goroutine that its message is of, in place of the thread that wrote it. */
#define GOROUTINE (1u << 31)
#define GOROUTINE_ASKED (1u << 30) /* go_parent is that goroutine's parent */
#define GOROUTINE_MASK (GOROUTINE_ASKED - 1)

/* Where a flight has the parent: its address of the other kind is of no use. */
static __always_inline u32 *go_parent(struct flight *f)
{
	return f->flags & FLIGHT_IPV6 ? &f->send_addr4 : (u32 *)f->send_addr;
}

/* The goroutine that runs on this thread. Go's compiler keeps it at fs:-8 (runtime/asm_amd64.s, get_tls). */
static __always_inline u64 goroutine(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 g = 0;

	bpf_probe_read_user(&g, sizeof(g), (void *)(task->thread.fsbase - 8));
	return g;
}

/* A number of a goroutine, as far as it is kept; 0: it has none, or it cannot be read. */
static __always_inline u32 go_number(u64 g, u16 offset)
{
	u64 id = 0;

	bpf_probe_read_user(&id, sizeof(id), (void *)(g + offset));
	return id & GOROUTINE_MASK;
}

static __always_inline struct go_set *go_set_of(u32 tgid)
{
	return (struct go_set *)section(mw_gos) + (hash32(tgid) >> 12 & (GO_SETS - 1));
}

static __always_inline struct go_process *go_process_find(u32 tgid)
{
	struct go_set *set = go_set_of(tgid);

#pragma clang loop unroll(full)
	for (int i = 0; i < GO_WAYS; i++)
		if (set->p[i].tgid == tgid)
			return &set->p[i];
	return 0;
}

/* Key of what a connection of net/http's client, at this address in its process, was asked. Even, as the address is. */
static __always_inline u64 trip_asked(u32 tgid, u64 conn)
{
	return conn ^ (u64)tgid << 47;
}

/* Key of what a goroutine is about to write. */
static __always_inline u64 trip_written(u32 tgid, u32 number)
{
	return ((u64)tgid << 32 | number) << 1 | 1;
}

static __always_inline struct trip_set *trips_of(u64 key)
{
	return (struct trip_set *)section(mw_trips) + (hash32((u32)(key >> 3) ^ (u32)(key >> 35)) >> 16 & (TRIP_SETS - 1));
}

/* A place in the set of key that has in_place_of, for the caller alone until trip_release; 0: there is none. */
static __always_inline struct go_trip *trip_hold(u64 key, u64 in_place_of)
{
	struct trip_set *set = trips_of(key);

#pragma clang loop unroll(full)
	for (int i = 0; i < TRIP_WAYS; i++) {
		struct go_trip *t = &set->t[i];

		if (*(volatile u64 *)&t->key == in_place_of && __sync_val_compare_and_swap(&t->key, in_place_of, GO_BUSY) == in_place_of)
			return t;
	}
	return 0;
}

/* Lets go of it. */
static __always_inline void trip_release(struct go_trip *t, u64 key)
{
	barrier();
	*(volatile u64 *)&t->key = key;
}

/* Takes a trip out. False: there is none of that key. */
static __always_inline int trip_take(u64 key, struct go_trip *to)
{
	struct go_trip *t = trip_hold(key, key);

	if (!t)
		return 0;
	to->caller = t->caller;
	to->parent = t->parent;
	to->since = t->since;
	to->binary = t->binary;
	trip_release(t, 0);
	return to->since == *(volatile u32 *)&mw_control.since;
}
