// Package join makes journeys of flights: it orders the flights of each connection (leg), pairs requests with responses
// (exchange), links the exchanges of one request inside each process (relay) and gives out trees when they are whole.
//
// A wrong join is worse than a missing one: what the evidence does not decide stays apart and is counted by reason. All of
// it is computation on values given to it; one goroutine owns a Joiner.
package join
