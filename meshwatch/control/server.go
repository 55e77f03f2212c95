package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// Server answers at a socket. Claim makes one; Close ends it.
type Server struct {
	listener net.Listener
	http     *http.Server
	serving  sync.WaitGroup
}

// Claim makes the socket, so that there is one agent: call it before anything is attached. Until Serve, who connects waits.
// A second agent gets a *RunningError.
func Claim(socket string) (*Server, error) {
	l, err := listen(socket)
	if err != nil {
		return nil, err
	}
	return &Server{listener: l}, nil
}

// Serve begins to answer and returns. clock is the recorder's.
func (s *Server) Serve(src Source, clock journey.Clock, log *slog.Logger) {
	s.http = &http.Server{
		Handler:           handler(src, clock),
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      30 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.serving.Go(func() {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control socket lost", "socket", s.listener.Addr().String(), "error", err)
		}
	})
}

// Close gives answers under way a second, then removes the socket.
func (s *Server) Close() error {
	if s.http == nil {
		return s.listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	s.serving.Wait()
	if err != nil {
		return fmt.Errorf("close the control socket: %w", err)
	}
	return nil
}

// maxSummaries is the longest list of journeys in one answer.
const maxSummaries = 1000

func handler(src Source, clock journey.Clock) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Status()) })
	mux.HandleFunc("GET "+pathHops, func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Hops(false)) })
	mux.HandleFunc("POST "+pathHops, func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Hops(true)) })
	mux.HandleFunc("GET "+pathNamespaces, func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Namespaces()) })
	mux.HandleFunc("GET "+pathJourneys, func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.FormValue("n"))
		if err != nil || n < 1 || n > maxSummaries {
			fail(w, http.StatusBadRequest, fmt.Sprintf("n must be from 1 to %d", maxSummaries))
			return
		}
		answer(w, src.Recent(n))
	})
	mux.HandleFunc("GET "+pathJourneys+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		j := src.Journey(r.PathValue("id"))
		if j == nil {
			fail(w, http.StatusNotFound, "no such journey")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(report.AppendJSON(nil, j, clock), '\n')) // who asked has gone
	})
	mux.HandleFunc("GET "+pathMesh, func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Mesh()) })
	mux.HandleFunc("GET "+pathEdges, func(w http.ResponseWriter, _ *http.Request) { answer(w, src.Edges()) })
	mux.HandleFunc("GET "+pathWho, func(w http.ResponseWriter, r *http.Request) {
		addr, err := ParseAddress(r.FormValue("address"))
		if err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		answer(w, src.Who(addr))
	})
	mux.HandleFunc("GET "+pathRoutes, func(w http.ResponseWriter, r *http.Request) {
		rules, err := src.Routes(r.FormValue("namespace"), r.FormValue("pod"))
		if err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		answer(w, rules)
	})
	mux.HandleFunc("PUT "+pathRecording, turn(func(on bool) error { src.Record(on); return nil }))
	mux.HandleFunc("PUT "+pathInject, turn(src.Inject))
	mux.HandleFunc("POST "+pathDepth, func(w http.ResponseWriter, r *http.Request) {
		var q question
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&q)
		if err != nil || q.Namespaces == "" || q.During <= 0 || q.During > maxDeep {
			fail(w, http.StatusBadRequest, fmt.Sprintf("namespaces must be a name, and during_ns from 1 to %d", maxDeep))
			return
		}
		names := src.Deepen(q.Namespaces, q.During)
		if len(names) == 0 {
			fail(w, http.StatusBadRequest, fmt.Sprintf("no network namespace is called %q, by name, pattern, number or pid: `meshwatch path` lists them", q.Namespaces))
			return
		}
		answer(w, names)
	})
	return mux
}

// turn answers who switches something on or off.
func turn(to func(on bool) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var on *bool
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64)).Decode(&on); err != nil || on == nil {
			fail(w, http.StatusBadRequest, "the body must be true or false")
			return
		}
		if err := to(*on); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		answer(w, *on)
	}
}

// ParseAddress reads ADDRESS or ADDRESS:PORT; port 0: none was given.
func ParseAddress(s string) (netip.AddrPort, error) {
	if both, err := netip.ParseAddrPort(s); err == nil {
		return both, nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address: give an IP address, or one with a port, such as 10.0.0.7:8080 or [fd00::7]:8080", s)
	}
	return netip.AddrPortFrom(addr, 0), nil
}

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // who asked has gone
}

func fail(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	b, _ := json.Marshal(refusal{text}) // a string always has a form
	_, _ = w.Write(append(b, '\n'))
}

type refusal struct {
	Error string `json:"error"`
}
