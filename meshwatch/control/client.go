package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/netpath"
)

// NoAgentError says that nobody answers at the socket.
type NoAgentError struct {
	Socket string
	Err    error
}

func (e *NoAgentError) Error() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return fmt.Sprintf("the agent's socket %s is only for the user that the agent runs as: use sudo", e.Socket)
	}
	if errors.Is(e.Err, context.DeadlineExceeded) {
		return fmt.Sprintf("the agent at %s does not answer in time: look at its log, or restart it", e.Socket)
	}
	return fmt.Sprintf("no agent answers at %s: is it running? (start it with `meshwatch agent`; --control names another socket)", e.Socket)
}

func (e *NoAgentError) Unwrap() error { return e.Err }

// NotFoundError says that the agent has no such journey.
type NotFoundError struct{ ID string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("the agent has no journey with request id or trace id %q: it keeps the latest ones only (`retain`, `keep` in its "+
		"configuration), and a request is there about a second after its end; `meshwatch trace` lists them", e.ID)
}

// Client asks the agent at a socket. It is safe for concurrent use and holds no connection.
type Client struct {
	socket string
	http   *http.Client
}

// patience is how long an answer may take: the largest, a journey, takes a millisecond.
const patience = 5 * time.Second

// NewClient makes a client. It does not connect: every call says so when nobody is there.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket, &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status is the state of the agent.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, pathStatus, nil, &s)
}

// Hops is the hop table; reset begins it anew after reading.
func (c *Client) Hops(ctx context.Context, reset bool) (rows []report.HopRow, err error) {
	method := http.MethodGet
	if reset {
		method = http.MethodPost
	}
	return rows, c.call(ctx, method, pathHops, nil, &rows)
}

// Recent are the latest kept journeys, at most n, newest first.
func (c *Client) Recent(ctx context.Context, n int) (list []Summary, err error) {
	return list, c.call(ctx, http.MethodGet, pathJourneys+"?n="+strconv.Itoa(min(n, maxSummaries)), nil, &list)
}

// Namespaces are the network namespaces as the agent sees them.
func (c *Client) Namespaces(ctx context.Context) (list []*netpath.Namespace, err error) {
	return list, c.call(ctx, http.MethodGet, pathNamespaces, nil, &list)
}

// Mesh is what the topology has now. With 10,000 workloads it is some 5 MB.
func (c *Client) Mesh(ctx context.Context) (m Mesh, err error) {
	return m, c.call(ctx, http.MethodGet, pathMesh, nil, &m)
}

// Who is behind an address now, with or without a port.
func (c *Client) Who(ctx context.Context, address string) (w Who, err error) {
	return w, c.call(ctx, http.MethodGet, pathWho+"?address="+url.QueryEscape(address), nil, &w)
}

// Routes are those that a pod's proxy was told of.
func (c *Client) Routes(ctx context.Context, namespace, pod string) (rules []Rule, err error) {
	return rules, c.call(ctx, http.MethodGet, pathRoutes+"?namespace="+url.QueryEscape(namespace)+"&pod="+url.QueryEscape(pod), nil, &rules)
}

// Edges are who talks to whom, beside what is configured.
func (c *Client) Edges(ctx context.Context) (e Edges, err error) {
	return e, c.call(ctx, http.MethodGet, pathEdges, nil, &e)
}

// Record switches recording on or off.
func (c *Client) Record(ctx context.Context, on bool) error {
	return c.call(ctx, http.MethodPut, pathRecording, on, nil)
}

// Inject switches giving requests ids on or off.
func (c *Client) Inject(ctx context.Context, on bool) error {
	return c.call(ctx, http.MethodPut, pathInject, on, nil)
}

// Deepen records the network namespaces that a word selects in full depth for a while, an hour at most, and names them.
func (c *Client) Deepen(ctx context.Context, word string, during time.Duration) (names []string, err error) {
	return names, c.call(ctx, http.MethodPost, pathDepth, question{word, during}, &names)
}

// Journey is the JSON line of a kept journey, for report.Decode. A *NotFoundError: there is none.
func (c *Client) Journey(ctx context.Context, id string) (line []byte, err error) {
	var raw json.RawMessage
	if id == "" || id == "." || id == ".." { // would be another path
		return nil, &NotFoundError{id}
	}
	err = c.call(ctx, http.MethodGet, pathJourneys+"/"+url.PathEscape(id), nil, &raw)
	if errors.Is(err, errNotFound) {
		return nil, &NotFoundError{id}
	}
	return raw, err
}

var errNotFound = errors.New("the agent does not know the question: is it of the same version?")

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	var send bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&send).Encode(body); err != nil {
			return fmt.Errorf("ask the agent: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, &send)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &NoAgentError{c.socket, err}
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("read the agent's answer to %s: %w", path, err)
	case resp.StatusCode == http.StatusNotFound:
		return errNotFound
	case resp.StatusCode != http.StatusOK:
		var why refusal
		_ = json.Unmarshal(got, &why) // the code is enough
		return fmt.Errorf("the agent refuses %s: %s %s", path, resp.Status, why.Error)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(got, into); err != nil {
		return fmt.Errorf("read the agent's answer to %s (is it of the same version?): %w", path, err)
	}
	return nil
}
