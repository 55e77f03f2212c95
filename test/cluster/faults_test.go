package cluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
)

func testExec(t *testing.T, c *Cluster) {
	p := pod(t, c, Namespace, "app=frontend")
	out, err := c.Exec(t.Context(), Namespace, p.Name, "app", "fortio", "curl", "-quiet", "http://backend/exec")
	if err != nil || !regexp.MustCompile(`backend-v[12] ok`).Match(out) {
		t.Errorf("from the app's container: %v: %s", err, out)
	}
	if _, err := c.Exec(t.Context(), Namespace, p.Name, "app", "no-such-program"); err == nil {
		t.Error("a program that is not there ran")
	}
	// The same from the machine, in the pod's network namespace.
	var service struct{ Spec struct{ ClusterIP string } }
	if err := c.Get(t.Context(), &service, "service/backend", "--namespace="+Namespace); err != nil {
		t.Fatal(err)
	}
	client := p.Client()
	defer client.CloseIdleConnections()
	if _, err := get(t.Context(), client, "http://"+service.Spec.ClusterIP+"/exec", http.StatusOK); err != nil {
		t.Error(err)
	}
}

// testLayouts: what meshwatch must read on either kind of node.
func testLayouts(t *testing.T, c *Cluster) {
	for version, want := range map[string]string{
		"v1": `(?m)^0::/meshwatch-cluster/n1/kubepods/[a-z]+/pod[0-9a-f-]{36}/[0-9a-f]{64}$`,
		"v2": `(?m)^0::/meshwatch-cluster/n2/kubepods\.slice/kubepods-[a-z]+\.slice/kubepods-[a-z]+-pod[0-9a-f_]{36}\.slice/cri-containerd-[0-9a-f]{64}\.scope$`,
	} {
		p := pod(t, c, Namespace, "app=backend,version="+version)
		pid, err := p.Process("app")
		if err != nil {
			t.Error(err)
			continue
		}
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		if err != nil || !regexp.MustCompile(want).Match(text) {
			t.Errorf("%s: %v: %s does not match %s", p.Name, err, text, want)
		}
	}
}

func testTokens(t *testing.T, c *Cluster) {
	client, err := c.apiClient()
	if err != nil {
		t.Fatal(err)
	}
	client.Transport.(*http.Transport).TLSClientConfig.Certificates = nil
	defer client.CloseIdleConnections()
	status := func(token string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+nodeAddr(1).String()+":"+apiPort+"/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for life, want := range map[time.Duration]int{time.Minute: http.StatusOK, -time.Minute: http.StatusUnauthorized} {
		token, err := c.Token(t.Context(), Namespace, "frontend", tokenIssuer, life)
		if err != nil {
			t.Fatal(err)
		}
		if got := status(token); got != want {
			t.Errorf("a token of life %s: status %d, want %d", life, got, want)
		}
	}
	testExpireToken(t, c)
}

func testExpireToken(t *testing.T, c *Cluster) {
	p := pod(t, c, Namespace, "app=frontend")
	pid, err := p.Process("pilot-agent")
	if err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("/proc/%d/root/var/run/secrets/tokens/istio-token", pid)
	valid := func(want bool) {
		t.Helper()
		token, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Kubectl(t.Context(), strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"audiences":["istio-ca"],"token":"`+string(token)+`"}}`),
			"create", "--filename=-", "--output=jsonpath={.status.authenticated} {.status.error}")
		if authenticated := strings.HasPrefix(string(got), "true"); err != nil || authenticated != want || !want && !strings.Contains(string(got), "expired") {
			t.Errorf("the pod's token: %s, %v; want valid: %t", got, err, want)
		}
	}
	valid(true)
	lift, err := c.ExpireToken(t.Context(), p, "istio-token", "frontend", "istio-ca")
	if err != nil {
		t.Fatal(err)
	}
	valid(false)
	expired, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	err = await.Until(ctxWithin(t, soon), func() bool { // the kubelet looks after it every few seconds
		nodes, err := p.tokenFile("istio-token")
		if err != nil {
			return false
		}
		fresh, err := os.ReadFile(nodes)
		return err == nil && len(fresh) > 0 && string(fresh) != string(expired)
	})
	if err != nil {
		t.Errorf("the kubelet did not write a fresh token: %v", err)
	}
	valid(false)
	for range 2 {
		if err := lift(t.Context()); err != nil {
			t.Error(err)
		}
	}
	valid(true)
}

func testIstiod(t *testing.T, c *Cluster) {
	client := c.GatewayClient()
	defer client.CloseIdleConnections()
	answered := func() {
		t.Helper()
		if _, err := get(t.Context(), client, c.GatewayURL()+"/istiod", http.StatusOK); err != nil {
			t.Error(err)
		}
	}
	lift, err := c.StopIstiod(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answered() // proxies go on with what they have
	if pods, err := c.Pods(t.Context(), "istio-system", "app=istiod"); err != nil || len(pods) != 0 {
		t.Errorf("istiod's pods: %v, %v", pods, err)
	}
	if _, err := c.Kubectl(t.Context(), strings.NewReader(outside), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
		t.Errorf("without istiod, which checks it, a ServiceEntry was taken: %v", err)
	}
	applied := make(chan error, 1)
	go func() { applied <- c.Apply(t.Context(), outside) }() // waits for istiod
	if err := lift(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-applied; err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context(), outside); err != nil {
		t.Error(err)
	}
	p := pod(t, c, "istio-system", "app=istiod")
	pid, err := p.Process("pilot-discovery")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.KillIstiod(t.Context()); err != nil {
		t.Fatal(err)
	}
	answered()
	err = await.Until(ctxWithin(t, soon), func() bool {
		now, err := p.Process("pilot-discovery")
		return err == nil && now != pid
	})
	if err != nil {
		t.Errorf("istiod was not started again: %v", err)
	}
	if err := c.WaitRollout(t.Context(), "istio-system", "deployment/istiod"); err != nil {
		t.Error(err)
	}
}

func testFreeze(t *testing.T, c *Cluster) {
	p := pod(t, c, Namespace, "app=frontend")
	client := c.GatewayClient()
	client.Timeout = time.Second
	defer client.CloseIdleConnections()
	lift, err := c.Freeze(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	_, err = get(t.Context(), client, c.GatewayURL()+"/frozen", http.StatusOK)
	if err := lift(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err == nil || !strings.Contains(err.Error(), "Client.Timeout") && !strings.Contains(err.Error(), "status 503") {
		t.Errorf("with its only frontend frozen the gateway answered: %v", err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

func testDrain(t *testing.T, c *Cluster) {
	lift, err := c.Drain(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lift(context.Background()); err != nil {
			t.Error(err)
		}
		if err := c.WaitReady(context.Background()); err != nil { // backend-v2 comes back to its node
			t.Error(err)
		}
	}()
	pods, err := c.Pods(t.Context(), Namespace, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.Node == "n2" {
			t.Errorf("pod %s is still on n2", p.Name)
		}
	}
}

// testAgain: building a cluster that is up is quick and changes nothing; one with other options is refused.
func testAgain(t *testing.T, c *Cluster) {
	before := pod(t, c, Namespace, "app=frontend")
	if _, err := Up(t.Context(), c.Options); err != nil {
		t.Fatal(err)
	}
	if after := pod(t, c, Namespace, "app=frontend"); after.UID != before.UID {
		t.Errorf("frontend is another pod: %s, then %s", before.Name, after.Name)
	}
	if _, err := Up(t.Context(), Options{Nodes: 1}); err == nil {
		t.Error("a cluster with other options came up beside this one")
	}
}
