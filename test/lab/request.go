package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/meshwatch/meshwatch/test/nets"
)

// Response is the answer to one request, read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Dial connects from a pod's namespace: to try what an HTTP client does not do, such as pipelining or split heads.
func (l *Lab) Dial(ctx context.Context, pod, address string) (net.Conn, error) {
	p, ok := l.Pod(pod)
	if !ok {
		return nil, fmt.Errorf("dial from %s: no such pod", pod)
	}
	var conn net.Conn
	err := nets.Named(p.Netns).Do(func() (err error) {
		var d net.Dialer // one address: the socket is made on this thread
		d.SetMultipathTCP(false)
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", pod, err)
	}
	return conn, nil
}

// Client is an HTTP client in the client's namespace, which keeps its connections. Close them when it is no longer used.
func (l *Lab) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return l.Dial(ctx, "client", address)
		},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
		TLSClientConfig:     l.ClientTLS(),
	}}
}

// Request sends one GET from the client to the gateway, on a connection of its own.
func (l *Lab) Request(ctx context.Context, path string, header http.Header) (*Response, error) {
	client := l.Client()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.GatewayURL()+path, nil)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", path, err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", path, err)
	}
	return &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// Reconnect ends every connection of gateway, sidecars and apps, so that they open new ones.
func (l *Lab) Reconnect() error {
	for _, pod := range l.Proxies() {
		p, _ := l.Pod(pod)
		for _, family := range []string{"-4", "-6"} {
			if err := command("ip", "netns", "exec", p.Netns, "ss", family, "-K", "state", "established"); err != nil {
				return fmt.Errorf("end connections of %s: %w", pod, err)
			}
		}
	}
	return nil
}
