package main

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 says so
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/meshwatch/meshwatch/test/lab/record"
)

// webSocket grants the upgrade and sends back what comes, until the client ends it. Frames are bytes to it.
func webSocket(w http.ResponseWriter, r *http.Request) {
	const magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"               // RFC 6455 section 1.3
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + magic)) //nolint:gosec // RFC 6455 says so
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, in, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.Copy(conn, in)
}

// events sends server-sent events, each in a write of its own.
func events(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for i := range n {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil || out.Flush() != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// recorded has the app's answers recorded, where there is a writer.
func recorded(app http.Handler, records *record.Writer) http.Handler {
	if records == nil {
		return app
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := &statusWriter{ResponseWriter: w}
		app.ServeHTTP(own, r)
		err := records.Add(record.Record{TruthID: r.Header.Get("X-Truth-Id"), RequestID: r.Header.Get("X-Request-Id"), Target: r.URL.Path, Status: own.status})
		if err != nil {
			slog.Error("a request is not recorded", "error", err)
		}
	})
}

// statusWriter remembers the status. Its status is 0 as long as there is none.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status < http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
