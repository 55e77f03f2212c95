package join

import "github.com/meshwatch/meshwatch/meshwatch/loss"

// losses are the joiner's counters, resolved once.
type losses struct {
	gap, stale, malformed, cutHead, strayBody, unpairedResponse, unpairedRequest, unsure, noThread *loss.Counter
	noID, noParent, ambiguous, ambiguousID, groupFull, noResponse, cut                             *loss.Counter
	indexFull, workerFull, speaker, contradicted                                                   *loss.Counter
	lateText, hops, frames, blocks, unknown                                                        *loss.Counter
}

func newLosses(set *loss.Set) losses {
	c := set.Counter
	return losses{
		gap: c("leg", "missing-flight"), stale: c("leg", "stale-flight"), strayBody: c("leg", "stray-body"),
		malformed: c("parse", "malformed-head"), cutHead: c("parse", "cut-head"),
		unpairedResponse: c("pair", "response-without-request"), unpairedRequest: c("pair", "response-not-seen"),
		unsure: c("pair", "behind-a-gap"), noResponse: c("pair", "no-response"),
		noThread: c("relay", "process-not-seen"), noID: c("relay", "no-id"), noParent: c("relay", "no-parent"),
		ambiguous: c("relay", "ambiguous"), ambiguousID: c("relay", "ambiguous-id"),
		groupFull: c("relay", "id-used-too-often"), cut: c("pair", "recording-stopped"),
		indexFull: c("relay", "index-full"), workerFull: c("relay", "worker-too-busy"),
		speaker: c("relay", "speaker-not-known"), contradicted: c("relay", "contradicted"),
		lateText: c("leg", "plaintext-late"), hops: c("leg", "hops-not-told"),
		frames: c("parse", "frames-missing"), blocks: c("parse", "head-not-read"), unknown: c("parse", "unknown-field"),
	}
}
