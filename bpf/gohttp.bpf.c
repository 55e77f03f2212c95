// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* For whom Go's net/http writes a request (uprobe.multi, Linux 6.6; x86-64): (*persistConn).roundTrip runs in the goroutine that asks, and
 * persistConnWriter.Write in that which writes to the connection. One request is under way on a connection at a time. Arguments are where
 * Go's ABIInternal has them: the first in AX, the goroutine in R14.
 */
#include "c/gohttp.h"

/* Of processes in these namespaces nothing is noted: a bit for the low 14 bits of each one's inode number. */
u64 mw_go_off[(1 << 14) / 64] SHARED(mw_go_off) = {};

/* Whether the calling process is left alone. */
static __always_inline int process_excluded(void)
{
	u32 netns = task_netns();

	return excluded(netns) || mw_go_off[netns >> 6 & 0xff] >> (netns & 63) & 1;
}

/* What user space says with a probe: the binary it is on, and where a goroutine has its number and its parent's. */
struct cookie {
	u32 binary;
	u16 goid, parent;
};

static __always_inline struct cookie cookie_of(struct pt_regs *ctx)
{
	u64 c = bpf_get_attach_cookie(ctx);
	struct cookie out = {c, c >> 32, c >> 48};

	return out;
}

/* Makes a process known. */
static __noinline void go_process_make(u32 tgid, u32 goid, u32 parent)
{
	struct go_set *set = go_set_of(tgid);
	struct go_process *p = &set->p[tgid & (GO_WAYS - 1)];

#pragma clang loop unroll(full)
	for (int i = 0; i < GO_WAYS; i++)
		if (p->tgid && !set->p[i].tgid)
			p = &set->p[i];
	if (p->tgid)
		lose(LOSS_GO);
	*(volatile u32 *)&p->tgid = 0;
	p->goid = goid;
	p->parent = parent;
	barrier();
	*(volatile u32 *)&p->tgid = tgid;
}

/* Notes a trip. */
static __noinline int trip_put(u64 key, const struct go_trip *trip)
{
	struct go_trip *t = trip_hold(key, key) ?: trip_hold(key, 0);
	u64 other;

	if (!t) {
		lose(LOSS_GO);
		other = *(volatile u64 *)&trips_of(key)->t[0].key; /* it may be one that is never written */
		t = other == GO_BUSY ? 0 : trip_hold(key, other);
		if (!t)
			return 0;
	}
	t->caller = trip->caller;
	t->parent = trip->parent;
	t->binary = trip->binary;
	t->since = *(volatile u32 *)&mw_control.since;
	trip_release(t, key);
	return 0;
}

/* func (pc *persistConn) roundTrip(req *transportRequest) (*Response, error) */
SEC("uprobe.multi")
int mw_go_trip(struct pt_regs *ctx)
{
	struct cookie c = cookie_of(ctx);
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct go_trip trip = {.binary = c.binary};
	u64 g = ctx->r14;

	if (!enabled() || process_excluded())
		return 0;
	__sync_fetch_and_add(&go_binary(c.binary)->trips, 1);
	trip.caller = go_number(g, c.goid);
	trip.parent = go_number(g, c.parent);
	if (!trip.caller)
		return 0;
	if (!go_process_find(tgid)) {
		if (goroutine() != g) /* who writes to a socket cannot be known */
			return 0;
		go_process_make(tgid, c.goid, c.parent);
	}
	trip_put(trip_asked(tgid, ctx->ax), &trip);
	return 0;
}

/* func (w persistConnWriter) Write(p []byte) (n int, err error), w being a *persistConn */
SEC("uprobe.multi")
int mw_go_writes(struct pt_regs *ctx)
{
	struct cookie c = cookie_of(ctx);
	u32 tgid = bpf_get_current_pid_tgid() >> 32, writer;
	struct go_trip trip;

	if (!enabled() || process_excluded())
		return 0;
	writer = go_number(ctx->r14, c.goid);
	if (!writer)
		return 0;
	if (trip_take(trip_written(tgid, writer), &trip)) /* nothing was written after all */
		lose(LOSS_GO);
	if (trip_take(trip_asked(tgid, ctx->ax), &trip)) /* else it is more of a body */
		trip_put(trip_written(tgid, writer), &trip);
	return 0;
}

char _license[] SEC("license") = "GPL";
