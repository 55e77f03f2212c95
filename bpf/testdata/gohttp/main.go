// Command gohttp is what gohttp_test.go records: clients ask a front, which asks a back for each, all in one process. Every message says in
// its head which goroutine it is of, as the runtime itself tells. It begins when its input has a line or ends, and prints the ports of front and back when all is over.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"sync"
)

// number is the calling goroutine's.
func number() string {
	b := make([]byte, 64)
	return string(bytes.Fields(b[:runtime.Stack(b, false)])[1])
}

// ask asks with a body of that size. of is the goroutine that it is done for.
func ask(c *http.Client, url, of string, body int) error {
	q, err := http.NewRequest("POST", url, bytes.NewReader(make([]byte, body)))
	if err != nil {
		return err
	}
	q.Header.Set("Goroutine", number())
	q.Header.Set("For", of)
	p, err := c.Do(q)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, p.Body)
	return errors.Join(err, p.Body.Close())
}

// run has clients ask the front so often each, over connections that are kept. how is what the front does: it asks itself ("direct"), or has
// two goroutines ask ("children").
func run(how string, secure bool, clients, times, body int) error {
	back := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		w.Header().Set("Goroutine", number())
	}))
	if secure {
		back.StartTLS()
	} else {
		back.Start()
	}
	defer back.Close()
	inside := back.Client()
	inside.Transport.(*http.Transport).MaxIdleConnsPerHost = 2 * clients
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		me := number()
		w.Header().Set("Goroutine", me)
		if how == "direct" {
			if err := ask(inside, back.URL, me, body); err != nil {
				w.WriteHeader(http.StatusBadGateway)
			}
			return
		}
		var wait sync.WaitGroup
		for range [2]int{} {
			wait.Add(1)
			go func() {
				defer wait.Done()
				if err := ask(inside, back.URL, me, body); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
			}()
		}
		wait.Wait()
	}))
	defer front.Close()
	errs := make(chan error, clients)
	for i := 0; i < clients; i++ {
		go func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for n := 0; n < times; n++ {
				if err := ask(c, front.URL, "", body); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var err error
	for i := 0; i < clients; i++ {
		err = errors.Join(err, <-errs)
	}
	if err == nil {
		_, err = fmt.Println(front.Listener.Addr(), back.Listener.Addr())
	}
	return err
}

func main() {
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(os.Args[3+i])
	}
	if err := run(os.Args[1], os.Args[2] == "tls", n[0], n[1], n[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
