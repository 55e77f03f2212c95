package main

import (
	"fmt"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// fault is what is made slow and what meshwatch must call it.
type fault struct {
	lab.Fault
	owner string        // as the hop table says it
	class journey.Class // of the verdicts
	says  string        // what is done
}

// pod is the one that the faults are on.
const pod = "backend"

// cases are strong enough that whose time it is can be no matter of opinion, and leave the CPUs idle otherwise: what waits
// for a CPU is the time of the process that waits.
var cases = map[lab.FaultKind]fault{
	lab.FaultApp: {
		Fault: lab.Fault{Delay: 50 * time.Millisecond},
		owner: pod + " app", class: journey.ClassApp, says: "the backend's app waits 50 ms in every request",
	},
	lab.FaultSidecar: {
		Fault: lab.Fault{Percent: 1}, // for 20 requests a second Envoy needs 1.3, HAProxy 0.6
		owner: pod + " sidecar", class: journey.ClassSidecar, says: "the backend's sidecar may use %v %% of a CPU (cgroup quota)",
	},
	lab.FaultLoss: {
		Fault: lab.Fault{Percent: 20}, // each costs the 200 ms of TCP: 40 ms a request, against 3 ms for all else
		owner: string(journey.ClassNetwork), class: journey.ClassNetwork, says: "the node loses 20 % of the packets to the backend",
	},
	lab.FaultIptables: {
		Fault: lab.Fault{Rules: 2_500}, // 1.8 ms a message, which a request and its response pay nine times
		owner: string(journey.ClassNode), class: journey.ClassNode,
		says: "every packet is held against 2,500 iptables rules that search for a text (FORWARD on the node, OUTPUT in the backend)",
	},
}

// faultOf is the fault for a mesh with these sidecars.
func faultOf(kind lab.FaultKind, sidecar lab.Sidecar) fault {
	f := cases[kind]
	f.Kind, f.Pod = kind, pod
	if kind == lab.FaultSidecar {
		if sidecar == lab.SidecarHAProxy {
			f.Percent /= 2
		}
		f.says = fmt.Sprintf(f.says, f.Percent)
	}
	return f
}

// verdictName is how the evidence names a verdict.
func verdictName(class journey.Class, where string) string {
	switch class {
	case journey.ClassApp, journey.ClassSidecar, journey.ClassGateway:
		return report.Owner(class, where)
	}
	return string(class)
}
