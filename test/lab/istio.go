package lab

import (
	"fmt"
	"strings"
)

// sidecarUID is the user and the group that sidecars run as; Istio's rules know their packets by it.
const sidecarUID = 1337

// istioRules are the nat rules of `istio-iptables -p 15001 -z 15006 -u 1337 -g 1337 -m REDIRECT -i '*' -x ” -b '*'
// -d 15090,15021,15020`, in the form of iptables-restore. LOCAL is the loopback address, SIX the one from which a
// sidecar calls its app.
const istioRules = `*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s SIX -j RETURN
-A ISTIO_OUTPUT -o lo ! -d LOCAL -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d LOCAL -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d LOCAL -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
`

// addIstioRules redirects the pod's TCP traffic through its sidecar, for both families.
func addIstioRules(ns string) error {
	for _, f := range []struct{ restore, local, six string }{
		{"iptables-restore", "127.0.0.1/32", "127.0.0.6/32"},
		{"ip6tables-restore", "::1/128", "::6/128"},
	} {
		rules := strings.NewReplacer("LOCAL", f.local, "SIX", f.six).Replace(istioRules)
		if err := commandIn(ns, rules, f.restore, "--noflush"); err != nil {
			return fmt.Errorf("add istio's rules: %w", err)
		}
	}
	return nil
}
