package kube

import (
	"context"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/meshwatch/meshwatch/topology"
)

type name = types.NamespacedName

// state is what is known of a resource.
type state uint8

const (
	waiting   state = iota // for its first list
	synced                 // it was read
	absent                 // the API server does not have it
	forbidden              // it may not be read
)

// stream is one resource as it is followed: what a reflector fills. The reflector calls it from one goroutine at a time; the Client's
// lock guards what is below client.
type stream struct {
	kind   kind
	client *Client

	held  map[name]any // what is kept of each object
	state state
	err   error // of the last request, nil: it went well, or its answer says no

	heard    uint64 // when something was last heard that was no old news, 0: never. CLOCK_MONOTONIC ns, as the others
	before   uint64 // heard, when the present watch began
	caughtUp uint64 // from then on the present watch has no old news
}

// kept is what a reflector holds of an object while it reads a list: its name, and what is kept of it.
type kept struct {
	metav1.Object // nil: nothing else is asked for
	name
	value any
}

func (k *kept) GetNamespace() string { return k.Namespace }
func (k *kept) GetName() string      { return k.name.Name }

// Transformer cuts objects down as they come, so that a list of many never lies whole in memory where the API server streams it.
func (s *stream) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if o, ok := o.(runtime.Object); ok {
			return s.cut(o)
		}
		return o, nil
	}
}

func (s *stream) cut(o runtime.Object) (*kept, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, err
	}
	return &kept{name: name{Namespace: m.GetNamespace(), Name: m.GetName()}, value: s.kind.keep(o)}, nil
}

// Add is of cache.ReflectorStore, as all below.
func (s *stream) Add(o any) error { return s.Update(o) }

// Update takes an object of the watch.
func (s *stream) Update(o any) error {
	k, err := s.cut(o.(runtime.Object))
	if err != nil {
		return err
	}
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	s.put(k.name, k.value, s.moment())
	return nil
}

// Delete takes that an object is gone.
func (s *stream) Delete(o any) error {
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	s.drop(name{Namespace: m.GetNamespace(), Name: m.GetName()}, s.moment())
	return nil
}

// Replace takes a list of all there are.
func (s *stream) Replace(list []any, _ string) error {
	now := make(map[name]any, len(list))
	for _, o := range list {
		k, ok := o.(*kept)
		if !ok {
			var err error
			if k, err = s.cut(o.(runtime.Object)); err != nil {
				return err
			}
		}
		now[k.name] = k.value
	}
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	m := s.relisted()
	for n := range s.held {
		if _, stays := now[n]; !stays {
			s.drop(n, m)
		}
	}
	for n, value := range now {
		s.put(n, value, m)
	}
	at := s.client.Clock()
	s.state, s.heard, s.before, s.caughtUp = synced, at, at, 0
	s.client.touched()
	return nil
}

// Resync has nothing to do.
func (s *stream) Resync() error { return nil }

// UpdateResourceVersion is called for whatever comes on the watch, bookmarks too, after it was taken.
func (s *stream) UpdateResourceVersion(string) {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if now := s.client.Clock(); now >= s.caughtUp {
		s.heard = now
	}
}

// put keeps an object, nil: nothing of it. What is as it was is no change.
func (s *stream) put(n name, value any, m topology.Moment) {
	if value == nil {
		s.drop(n, m)
		return
	}
	before := s.held[n]
	if reflect.DeepEqual(before, value) {
		return
	}
	s.held[n] = value
	s.kind.changed(n, before, value, m)
	s.client.touched()
}

func (s *stream) drop(n name, m topology.Moment) {
	before, known := s.held[n]
	if !known {
		return
	}
	delete(s.held, n)
	s.kind.changed(n, before, nil, m)
	s.client.touched()
}

// moment is when what comes on the watch was so. A watch that has just begun tells what came since the one before it broke off, of
// which nothing was heard; that one may have been dead before it broke off.
func (s *stream) moment() topology.Moment {
	now := s.client.Clock()
	m := topology.Moment{At: now, Since: now - min(now, topology.Lateness)}
	if now < s.caughtUp {
		m.Since = s.before - min(s.before, topology.Lateness)
	}
	return m
}

// relisted is when what a list says was so.
func (s *stream) relisted() topology.Moment {
	now := s.client.Clock()
	if s.heard == 0 {
		return topology.First(now, s.client.started)
	}
	return topology.Moment{At: now, Since: s.heard - min(s.heard, topology.Lateness)}
}

// begin notes that a watch begins.
func (s *stream) begin() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	s.before, s.caughtUp = s.heard, s.client.Clock()+topology.Lateness
}

// took notes how a request went. The caller has the lock.
func (s *stream) took(err error) {
	s.err = nil
	switch {
	case err == nil:
		if s.state != synced {
			s.state = waiting // for its list
		}
	case apierrors.IsNotFound(err):
		s.state = absent
	case apierrors.IsForbidden(err):
		s.state = forbidden
		s.client.Lost(LostForbidden, 1)
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsTimeout(err) && s.state == synced: // the reflector asks in another way
	default:
		s.err = err
		s.client.Lost(LostAway, 1)
	}
}

// listWatch is the kind's, and notes how it goes.
func (s *stream) listWatch() cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			s.kind.selects(&o)
			list, err := s.kind.list(ctx, o)
			if ctx.Err() == nil {
				s.client.note(s, err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			s.kind.selects(&o)
			s.begin()
			w, err := s.kind.watch(ctx, o)
			why := err
			if failed := s.client.failure.Load(); why == nil && failed != nil {
				why = *failed
			}
			if ctx.Err() == nil {
				s.client.note(s, why)
			}
			return w, err
		},
	}
}
