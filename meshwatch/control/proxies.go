package control

// Proxies is how it stands with what the proxies of this node are told.
type Proxies struct {
	Followed  int    `json:"followed"`
	Connected int    `json:"connected"`
	Resources int    `json:"resources"`         // that they were told, of all of them
	Problem   string `json:"problem,omitempty"` // of one that is not told, or was told what cannot be read; with its pod
}
