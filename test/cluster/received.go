package cluster

import (
	"fmt"
	"net/netip"
)

// Received is a request at a proxy: by an id of it, and its connection's peer.
type Received struct {
	ID   string
	Peer netip.AddrPort
}

// Logged is a line of an access log, and whose proxy wrote it.
type Logged struct {
	Access
	Pod *Pod
}

// ReceivedBy reads the lines of pods' access logs. id says by what a request is known; "": the line is not wanted. Of a request that came
// twice on one connection the last line counts.
func ReceivedBy(pods []Pod, id func(Access) string) (map[Received]Logged, error) {
	all := map[Received]Logged{}
	for i := range pods {
		for a, err := range pods[i].AccessLog() {
			if err != nil {
				return nil, err
			}
			if name := id(a); name != "" {
				all[Received{name, a.DownstreamDirect.AddrPort}] = Logged{a, &pods[i]}
			}
		}
	}
	return all, nil
}

// Score counts what is said of lines of access logs. Nothing said is not wrong.
type Score struct {
	Lines int `json:"lines"`
	Said  int `json:"said"`
	Wrong int `json:"wrong"`
}

// Add counts a line, and says whether what is said of it is wrong.
func (s *Score) Add(said, is string) (wrong bool) {
	s.Lines++
	if said == "" {
		return false
	}
	s.Said++
	if said != is {
		s.Wrong++
	}
	return said != is
}

func (s *Score) String() string {
	return fmt.Sprintf("%d of %d lines said (%.1f %%), %d wrong", s.Said, s.Lines, 100*float64(s.Said)/float64(max(s.Lines, 1)), s.Wrong)
}
