package sandbox

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// startTrue starts and reaps one container and returns its error.
func startTrue(root string, created func(int) error) error {
	p, err := Start(context.Background(), Config{Spec: newSpec(root, "true"), Created: created})
	if err != nil {
		return err
	}
	if _, err := p.Reap(); err != nil {
		return err
	}
	return p.Close()
}

// collect runs collections until stop is called.
func collect() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				runtime.GC()
			}
		}
	}()
	return func() { close(quit); <-done }
}

// TestOneProcessor: a child that waits for a goroutine of this process, with one P and the collector busy. It hangs
// if the spawn keeps its P.
func TestOneProcessor(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	for _, procs := range []int{1, 2} {
		old := runtime.GOMAXPROCS(procs)
		stop := collect()
		for range 10 {
			require.NoError(t, startTrue(root, func(int) error {
				done := make(chan struct{})
				go func() { runtime.GC(); close(done) }()
				<-done
				return nil
			}))
		}
		stop()
		runtime.GOMAXPROCS(old)
	}
}

// TestConcurrentStarts also holds that nothing is leaked: descriptors or children.
func TestConcurrentStarts(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	require.NoError(t, startTrue(root, nil)) // lets the runtime open what it keeps
	require.NoError(t, startTrue(root, func(int) error { return nil }))
	before := openFDs(t)
	stop := collect()
	var wg sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		wg.Go(func() {
			var hook func(int) error
			if i%2 == 0 {
				hook = func(int) error { runtime.Gosched(); return nil }
			}
			errs[i] = startTrue(root, hook)
		})
	}
	wg.Wait()
	stop()
	for _, err := range errs {
		require.NoError(t, err)
	}
	after := openFDs(t)
	slices.Sort(before)
	slices.Sort(after)
	require.Equal(t, before, after)
}

// TestSlowHook: starts do not wait for one whose network takes long.
func TestSlowHook(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	reached, release := make(chan struct{}), make(chan struct{})
	slow := make(chan error, 1)
	go func() {
		slow <- startTrue(root, func(int) error {
			close(reached)
			<-release
			return nil
		})
	}()
	<-reached
	for range 20 {
		require.NoError(t, startTrue(root, func(int) error { return nil }))
	}
	close(release)
	require.NoError(t, <-slow)
}
