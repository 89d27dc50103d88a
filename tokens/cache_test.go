package tokens_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// backend is a source under the test's control. Its zero value answers at once
// with john's tokens, a new one for each call.
type backend struct {
	t       testing.TB
	calls   atomic.Int32
	running atomic.Int32
	serve   func(ctx context.Context, call int) (string, error)
}

func (b *backend) Token(ctx context.Context) (string, error) {
	if b.running.Add(1) != 1 {
		b.t.Error("C9: the source was called while a call ran")
	}
	defer b.running.Add(-1)
	call := int(b.calls.Add(1))
	if b.serve == nil {
		return mint(b.t, "john", int64(call)), nil
	}
	return b.serve(ctx, call)
}

func (b *backend) wantCalls(want int) {
	b.t.Helper()
	if got := int(b.calls.Load()); got != want {
		b.t.Errorf("the source was called %d times, want %d", got, want)
	}
}

// setup returns a cache for john in front of a backend.
func setup(t testing.TB, serve func(ctx context.Context, call int) (string, error)) (*tokens.Cache, *backend) {
	b := &backend{t: t, serve: serve}
	return tokens.NewCache(b, tokens.CacheOptions{UserID: "john", Timeout: 30 * time.Second}), b
}

// slow answers like the zero backend, after a time that the context cuts short.
func slow(t testing.TB, d time.Duration) func(context.Context, int) (string, error) {
	return func(ctx context.Context, call int) (string, error) {
		select {
		case <-time.After(d):
			return mint(t, "john", int64(call)), nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// deaf answers after d, whatever the context says.
func deaf(t testing.TB, d time.Duration) func(context.Context, int) (string, error) {
	return func(_ context.Context, call int) (string, error) {
		time.Sleep(d)
		return mint(t, "john", int64(call)), nil
	}
}

func load(t testing.TB, c *tokens.Cache) tokens.Token {
	t.Helper()
	token, err := c.Load(t.Context())
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return token
}

// loadErr wants Load to fail with an error that is want, and to cache nothing.
func loadErr(t testing.TB, c *tokens.Cache, want error) error {
	t.Helper()
	token, err := c.Load(t.Context())
	if !errors.Is(err, want) || !token.IsZero() {
		t.Fatalf("Load: zero %v, %v; want %v", token.IsZero(), err, want)
	}
	if token, ok := c.Cached(); ok || !token.IsZero() {
		t.Fatal("a failed load is cached")
	}
	return err
}

func wantRunning(t testing.TB, c *tokens.Cache, want bool) {
	t.Helper()
	if got := c.Running(); got != want {
		t.Errorf("Running = %v", got)
	}
	select {
	case <-c.Done():
		if want {
			t.Error("Done is closed while a call runs")
		}
	default:
		if !want {
			t.Error("Done is open while no call runs")
		}
	}
}

// T2: one call, then a storm of loads without any.
func TestT2_CachedTokenIsReused(t *testing.T) {
	c, b := setup(t, nil)
	wantRunning(t, c, false)
	if token, ok := c.Cached(); ok || !token.IsZero() {
		t.Fatal("a new cache holds a token")
	}
	first := load(t, c)
	wantRunning(t, c, false)
	for range 1000 {
		if !load(t, c).Equal(first) {
			t.Fatal("another token")
		}
	}
	if token, ok := c.Cached(); !ok || !token.Equal(first) {
		t.Fatal("Cached disagrees with Load")
	}
	b.wantCalls(1)
}

// T2: a token at hand serves even a caller whose context has ended; without
// one, no call begins for such a caller.
func TestT2_EndedContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	c, b := setup(t, nil)
	if _, err := c.Load(ended); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	wantRunning(t, c, false)
	b.wantCalls(0)
	want := load(t, c)
	if got, err := c.Load(ended); err != nil || !got.Equal(want) {
		t.Fatalf("got %v", err)
	}
}

// T2: Drop makes the next load ask.
func TestT2_Drop(t *testing.T) {
	c, b := setup(t, nil)
	first := load(t, c)
	c.Drop()
	c.Drop()
	if _, ok := c.Cached(); ok {
		t.Fatal("still cached")
	}
	if load(t, c).Equal(first) {
		t.Fatal("the dropped token came back")
	}
	b.wantCalls(2)
}

// T3: a failure is the load's error, keeps its cause, and is not remembered.
func TestT3_SourceFails(t *testing.T) {
	cause := errors.New("backend down")
	c, b := setup(t, func(_ context.Context, call int) (string, error) {
		switch call {
		case 1:
			return "", cause
		case 2:
			return "", tokens.Permanent(cause)
		}
		return mint(t, "john", 1), nil
	})
	if err := loadErr(t, c, cause); tokens.IsPermanent(err) {
		t.Error("a plain failure is permanent")
	}
	if err := loadErr(t, c, cause); !tokens.IsPermanent(err) {
		t.Error("a permanent failure is not")
	}
	load(t, c)
	b.wantCalls(3)
}

func TestT3_NoSource(t *testing.T) {
	for _, source := range []tokens.Source{nil, tokens.Func(nil)} {
		c := tokens.NewCache(source, tokens.CacheOptions{UserID: "john"})
		if err := loadErr(t, c, tokens.ErrNoSource); !tokens.IsPermanent(err) {
			t.Error("not permanent")
		}
	}
}

// T3, M4: a panic is an error, and so is a goroutine that ends. T11: the error
// says what the panic was, but no token in it.
func TestT3_SourcePanics(t *testing.T) {
	raw := mint(t, "john", 1)
	for _, c := range []struct {
		name  string
		panic func()
		says  string
	}{
		{"text", func() { panic("no key") }, "string: no key"},
		{"error", func() { panic(fmt.Errorf("no key")) }, "*fmt.wrapError: no key"},
		{"nil", func() { panic(nil) }, "PanicNilError"},
		{"runtime error", func() { _ = []int{}[len(raw)] }, "out of range"},
		{"value that panics", func() { panic(panics{}) }, "panics"},
		{"token", func() { panic(raw) }, "string: [redacted]"},
		{"token inside", func() { panic(fmt.Errorf("token %q is bad: url?authorization=%s&x", raw, raw)) },
			`token "[redacted]" is bad`},
		{"token in base64", func() { panic("got " + base64.StdEncoding.EncodeToString([]byte(raw))) }, "string: got [redacted]"},
		{"dev token", func() { panic(tokens.DevToken("jlahey")) }, "string: [redacted]"},
		{"checked token", func() { panic(parsed(t, raw)) }, "tokens.Token: [redacted]"},
		{"long", func() { panic(strings.Repeat("ü", 1<<20)) }, "…"},
		{"goexit", runtime.Goexit, "ended its goroutine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache, b := setup(t, func(_ context.Context, call int) (string, error) {
				if call == 1 {
					c.panic()
				}
				return raw, nil
			})
			_, err := cache.Load(t.Context())
			if err == nil || tokens.IsPermanent(err) {
				t.Fatalf("got %v", err)
			}
			wantRunning(t, cache, false)
			text := strings.ReplaceAll(err.Error(), "*errors.errorString", "*fmt.wrapError")
			if !strings.Contains(text, c.says) || len(text) > 600 {
				t.Errorf("%.600q does not say %q", text, c.says)
			}
			assertHidden(t, raw, "panic", text)
			load(t, cache)
			b.wantCalls(2)
		})
	}
}

type panics struct{}

func (panics) String() string { panic("twice") }

// T3: a call that outlasts the timeout is abandoned at the second, whether the
// source obeys its context or not.
func TestT3_Timeout(t *testing.T) {
	for _, c := range []struct {
		name    string
		serve   func(context.Context, int) (string, error)
		running bool
	}{
		{"obeys", slow(t, time.Hour), false},
		{"deaf", deaf(t, time.Hour), true},
		{"returns an error of its own", func(ctx context.Context, _ int) (string, error) {
			<-ctx.Done()
			return "", errors.New("interrupted")
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cache, b := setup(t, c.serve)
				start := time.Now()
				err := loadErr(t, cache, tokens.ErrTimeout)
				if took := time.Since(start); took != 30*time.Second || tokens.IsPermanent(err) {
					t.Errorf("after %v: %v", took, err)
				}
				synctest.Wait()
				wantRunning(t, cache, c.running)

				<-cache.Done()
				if _, ok := cache.Cached(); ok {
					t.Error("the late result was not ignored")
				}
				b.wantCalls(1)
			})
		})
	}
}

// T3: without a timeout a load takes as long as it takes; with one, the source
// sees it as its deadline.
func TestT3_Deadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, timeout := range []time.Duration{0, -1, time.Minute} {
			source := tokens.Func(func(ctx context.Context) (string, error) {
				at, ok := ctx.Deadline()
				if ok != (timeout > 0) || ok && time.Until(at) != timeout {
					t.Errorf("timeout %v: deadline %v, %v", timeout, at, ok)
				}
				if timeout <= 0 {
					time.Sleep(1000 * time.Hour)
				}
				return mint(t, "john", 1), nil
			})
			load(t, tokens.NewCache(source, tokens.CacheOptions{UserID: "john", Timeout: timeout}))
		}
	})
}

// T3: a source that returns because its time is over has timed out, whoever
// noticed first. On the real clock, where the two race.
func TestT3_SourceReturnsAtItsDeadline(t *testing.T) {
	source := tokens.Func(func(ctx context.Context) (string, error) {
		for ctx.Err() == nil {
			runtime.Gosched()
		}
		return "", ctx.Err()
	})
	for range 300 {
		c := tokens.NewCache(source, tokens.CacheOptions{UserID: "john", Timeout: 100 * time.Microsecond})
		loadErr(t, c, tokens.ErrTimeout)
		<-c.Done()
	}
}

// T3, T4: when the answer, the timeout and the end of the caller's context fall
// on one instant, any may win, and what it leaves is consistent.
func TestT3_AllAtOneInstant(t *testing.T) {
	outcomes := map[string]int{}
	for round := range 300 {
		synctest.Test(t, func(t *testing.T) {
			c, b := setup(t, deaf(t, 30*time.Second))
			if round%3 == 0 {
				b.serve = func(ctx context.Context, _ int) (string, error) {
					<-ctx.Done()
					return "", ctx.Err()
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if round%3 == 1 {
				ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
			}
			defer cancel()

			token, err := c.Load(ctx)
			cached, ok := c.Cached()
			switch {
			case err == nil && cached.Equal(token):
				outcomes["token"]++
			case errors.Is(err, tokens.ErrTimeout) && !ok:
				outcomes["timeout"]++
			case round%3 == 1 && errors.Is(err, context.DeadlineExceeded):
				outcomes["context"]++
			default:
				t.Errorf("round %d: zero %v, cached %v, %v", round, token.IsZero(), ok, err)
			}
			synctest.Wait()
			wantRunning(t, c, false)
		})
	}
	t.Logf("outcomes: %v", outcomes)
}

// T4: everyone who waits shares one call, its failures too.
func TestT4_OneLoadForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("backend down")
		c, b := setup(t, func(ctx context.Context, call int) (string, error) {
			if call == 1 {
				time.Sleep(time.Second)
				return "", cause
			}
			return slow(t, time.Second)(ctx, call)
		})
		for call, want := range []error{cause, nil} {
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					if _, err := c.Load(t.Context()); !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
				})
			}
			wg.Wait()
			b.wantCalls(call + 1)
		}
	})
}

// T4: 1,000 requests refused together make exactly one load, however their
// refusals and loads interleave.
func TestT4_RefusedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := setup(t, nil)
		b.serve = func(ctx context.Context, call int) (string, error) {
			return slow(t, time.Duration(rand.IntN(1000))*time.Millisecond)(ctx, call)
		}
		refused := load(t, c)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond) // many arrive after the load
				c.Refuse(refused)
				if fresh := load(t, c); fresh.Equal(refused) {
					t.Error("the refused token was used again")
				}
			})
		}
		wg.Wait()
		b.wantCalls(2)
	})
}

// T4: a context ends its own wait; the source's ends with the last.
func TestT4_ContextEndsOneWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sourceSaw := make(chan error, 1)
		c, b := setup(t, func(ctx context.Context, call int) (string, error) {
			token, err := slow(t, 20*time.Second)(ctx, call)
			sourceSaw <- err
			return token, err
		})
		start := time.Now()
		wait := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			if _, err := c.Load(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, tokens.ErrTimeout) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took != d {
				t.Errorf("a wait of %v took %v", d, took)
			}
		}
		var wg sync.WaitGroup
		for _, d := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
			wg.Go(func() { wait(d) })
		}
		time.Sleep(2500 * time.Millisecond)
		wantRunning(t, c, true)
		if len(sourceSaw) != 0 {
			t.Errorf("while one waited the source saw %v", <-sourceSaw)
		}
		wg.Wait()
		synctest.Wait()
		wantRunning(t, c, false)
		if err := <-sourceSaw; !errors.Is(err, context.Canceled) {
			t.Errorf("after the last wait the source saw %v", err)
		}
		b.wantCalls(1)
	})
}

// T4: whoever comes after the last waiter has left does not join the cancelled
// load.
func TestT4_NobodyJoinsAnAbandonedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := setup(t, slow(t, 20*time.Second))
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.Load(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			cancel()
		}
		load(t, c)
		b.wantCalls(4)
	})
}

// T4: the result of a load begun before a Drop is thrown away; whoever waits
// gets a newer one.
func TestT4_DropDuringALoad(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve func(testing.TB, time.Duration) func(context.Context, int) (string, error)
		took  time.Duration // one load takes 10 s, the drop comes after 4 s
	}{
		{"obeys", slow, 14 * time.Second},
		{"deaf", deaf, 20 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cache, b := setup(t, c.serve(t, 10*time.Second))
				start := time.Now()
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						token := load(t, cache)
						if !token.Equal(parsed(t, mint(t, "john", 2))) || time.Since(start) != c.took {
							t.Errorf("after %v, second call's token: %v", time.Since(start), token.Reveal() == mint(t, "john", 2))
						}
					})
				}
				time.Sleep(4 * time.Second)
				cache.Drop()
				wg.Wait()
				b.wantCalls(2)
			})
		})
	}
}

// T4: a Drop before the source was even asked costs no call.
func TestT4_DropBeforeTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := setup(t, deaf(t, 10*time.Second))
		var wg sync.WaitGroup
		wg.Go(func() { load(t, c) })
		time.Sleep(time.Second)
		for range 5 { // while the first call still runs
			c.Drop()
			synctest.Wait()
		}
		wg.Wait()
		b.wantCalls(2)
	})
}

// T4: a load that ends before its call has begun does not ask.
func TestT4_NoCallForAnEndedLoad(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the call's goroutine has to wait its turn
	c, b := setup(t, func(ctx context.Context, call int) (string, error) {
		if ctx.Err() != nil {
			t.Error("the source was asked for a load that had ended")
		}
		return mint(t, "john", int64(call)), nil
	})
	if _, err := c.Load(&dropping{Context: t.Context(), cache: c}); err != nil {
		t.Fatal(err)
	}
	if calls := b.calls.Load(); calls > 2 {
		t.Errorf("%d calls", calls)
	}
}

// dropping drops the token once a load waits, which is when it looks at Done.
type dropping struct {
	context.Context
	cache *tokens.Cache
	once  sync.Once
}

func (d *dropping) Done() <-chan struct{} {
	d.once.Do(d.cache.Drop)
	return d.Context.Done()
}

// T5: the refused token returned again is a failed load, each time; a different
// one ends that.
func TestT5_SameTokenAgain(t *testing.T) {
	answer := mint(t, "john", 1)
	c, b := setup(t, func(context.Context, int) (string, error) { return answer, nil })
	refused := load(t, c)
	c.Refuse(refused)
	if _, ok := c.Cached(); ok {
		t.Fatal("the refused token is still cached")
	}
	for range 3 {
		loadErr(t, c, tokens.ErrRefusedAgain)
	}
	c.Drop() // changes nothing about it
	if err := loadErr(t, c, tokens.ErrRefusedAgain); tokens.IsPermanent(err) {
		t.Error("permanent")
	}
	b.wantCalls(5)

	answer = mint(t, "john", 2)
	load(t, c)
	c.Drop()
	answer = mint(t, "john", 1) // un-revoked, perhaps
	load(t, c)
}

// T5: codes 41 and 42 drop the token without refusing it: the same may return.
func TestT5_DroppedTokenMayReturn(t *testing.T) {
	answer := mint(t, "john", 1)
	c, _ := setup(t, func(context.Context, int) (string, error) { return answer, nil })
	first := load(t, c)
	c.Drop()
	if !load(t, c).Equal(first) {
		t.Error("another token")
	}
}

// T4, T5: what Refuse does, by what is cached.
func TestT5_Refuse(t *testing.T) {
	one, two := parsed(t, mint(t, "john", 1)), parsed(t, mint(t, "john", 2))
	answer := ""
	fill := func(c *tokens.Cache, token tokens.Token) {
		answer = token.Reveal()
		c.Drop()
		load(t, c)
	}
	for _, c := range []struct {
		name    string
		do      func(*tokens.Cache)
		cached  bool
		refused []tokens.Token
		fine    []tokens.Token
	}{
		{"nothing cached", func(c *tokens.Cache) { c.Refuse(one) }, false, []tokens.Token{one}, []tokens.Token{two}},
		{"cached", func(c *tokens.Cache) { fill(c, one); c.Refuse(one) }, false, []tokens.Token{one}, []tokens.Token{two}},
		{"twice", func(c *tokens.Cache) { fill(c, one); c.Refuse(one); c.Refuse(one) }, false, []tokens.Token{one}, []tokens.Token{two}},
		{"dropped before the news", func(c *tokens.Cache) { fill(c, one); c.Drop(); c.Refuse(one) }, false, []tokens.Token{one}, []tokens.Token{two}},
		{"replaced before the news", func(c *tokens.Cache) { fill(c, two); c.Refuse(one) }, true, nil, []tokens.Token{one, two}},
		{"late news about an older one", func(c *tokens.Cache) { fill(c, two); c.Refuse(two); c.Refuse(one) }, false, []tokens.Token{two}, []tokens.Token{one}},
		{"no token", func(c *tokens.Cache) { fill(c, one); c.Refuse(tokens.Token{}) }, true, nil, []tokens.Token{one, two}},
		{"no token of none", func(c *tokens.Cache) { c.Refuse(tokens.Token{}); c.Refuse(one) }, false, []tokens.Token{one}, []tokens.Token{two}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache, _ := setup(t, func(context.Context, int) (string, error) { return answer, nil })
			c.do(cache)
			if _, ok := cache.Cached(); ok != c.cached {
				t.Errorf("cached: %v", ok)
			}
			for _, token := range c.refused {
				answer = token.Reveal()
				loadErr(t, cache, tokens.ErrRefusedAgain)
			}
			for _, token := range c.fine {
				fill(cache, token)
			}
		})
	}
}

// T5: news of a refusal reaches a load under way.
func TestT5_RefuseDuringALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := mint(t, "john", 1)
		c, b := setup(t, func(context.Context, int) (string, error) {
			time.Sleep(time.Second)
			return raw, nil
		})
		first := load(t, c)
		c.Drop()
		time.AfterFunc(time.Second/2, func() { c.Refuse(first) })
		loadErr(t, c, tokens.ErrRefusedAgain)
		b.wantCalls(2)
	})
}

// C3: another user's token is a final error and not cached. S3: neither is what
// is no token at all.
func TestC3_OnlyFitTokensAreCached(t *testing.T) {
	good := mint(t, "john", 1)
	for _, c := range []struct {
		name, raw string
		want      error
		permanent bool
	}{
		{"another user", mint(t, "mary", 1), tokens.ErrUserMismatch, true},
		{"same id in other case", mint(t, "John", 1), tokens.ErrUserMismatch, true},
		{"dev token of another", tokens.DevToken("mary"), tokens.ErrUserMismatch, true},
		{"empty", "", tokens.ErrInvalid, false},
		{"newline", good + "\n", tokens.ErrInvalid, false},
		{"bearer", "Bearer " + good, tokens.ErrInvalid, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, source := range []tokens.Source{
				tokens.Static(c.raw),
				tokens.Func(func(context.Context) (string, error) { return c.raw, nil }),
			} {
				err := loadErr(t, tokens.NewCache(source, tokens.CacheOptions{UserID: "john"}), c.want)
				if tokens.IsPermanent(err) != c.permanent {
					t.Errorf("permanent %v: %v", !c.permanent, err)
				}
				if c.raw != "" {
					assertHidden(t, good, "error", err.Error())
				}
			}
		})
	}
}

// C3: without an expected user, as for a guest, the token tells who it is; it
// has to be a token all the same.
func TestC3_NoExpectedUser(t *testing.T) {
	c := tokens.NewCache(tokens.Static(mint(t, "guest-1-john", 1)), tokens.CacheOptions{})
	if got := load(t, c).UserID(); got != "guest-1-john" {
		t.Errorf("user %q", got)
	}
	loadErr(t, tokens.NewCache(tokens.Static("a.b.c"), tokens.CacheOptions{}), tokens.ErrInvalid)
}

// C9: no second call before an abandoned one has returned; the load waits for
// it, and then asks.
func TestC9_NoSecondCallBeforeTheFirstReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := setup(t, func(ctx context.Context, call int) (string, error) {
			if call == 1 {
				return deaf(t, 50*time.Second)(ctx, call)
			}
			return slow(t, time.Second)(ctx, call)
		})
		loadErr(t, c, tokens.ErrTimeout) // at 30 s
		start := time.Now()
		token := load(t, c)
		if took := time.Since(start); took != 21*time.Second {
			t.Errorf("took %v, want 20 s for the old call and 1 s for the new", took)
		}
		if !token.Equal(parsed(t, mint(t, "john", 2))) {
			t.Error("the abandoned call's token was used")
		}
		b.wantCalls(2)
		wantRunning(t, c, false)
	})
}

// C9: waiting for a call that never returns ends at the timeout, again and
// again, or with the caller's context; nothing but that call is left.
func TestC9_SourceThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c, b := setup(t, func(context.Context, int) (string, error) {
			<-release
			return mint(t, "john", 1), nil
		})
		for range 3 {
			start := time.Now()
			loadErr(t, c, tokens.ErrTimeout)
			if took := time.Since(start); took != 30*time.Second {
				t.Errorf("took %v", took)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Load(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		c.Drop()
		b.wantCalls(1)
		wantRunning(t, c, true)
		done := c.Done()

		close(release)
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("Done stayed open")
		}
		wantRunning(t, c, false)
		b.wantCalls(1) // nobody waited: no further call
		load(t, c)
		b.wantCalls(2)
	})
}

// C9: Done stays open while call follows call.
func TestC9_DoneMeansNoCallRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := setup(t, deaf(t, 10*time.Second))
		start := time.Now()
		go c.Load(t.Context())
		time.Sleep(time.Second)
		done := c.Done()
		c.Drop()
		<-done
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("closed after %v", took)
		}
		b.wantCalls(2)
	})
}

// M4: the source may call the cache: no lock is held while it runs.
func TestM4_NoLockWhileTheSourceRuns(t *testing.T) {
	var c *tokens.Cache
	c, _ = setup(t, func(_ context.Context, call int) (string, error) {
		c.Cached()
		c.Refuse(parsed(t, mint(t, "john", 99)))
		if !c.Running() {
			t.Error("not running")
		}
		select {
		case <-c.Done():
			t.Error("done")
		default:
		}
		if call == 1 {
			c.Drop()
		}
		return mint(t, "john", int64(call)), nil
	})
	load(t, c)
}

// T6: the expiry is not looked at unless asked: a device's clock lies.
func TestT6_ExpiredTokensAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := setup(t, func(context.Context, int) (string, error) { return expiring(t, time.Minute, 1), nil })
		load(t, c)
		time.Sleep(time.Hour)
		load(t, c)
		b.wantCalls(1)
	})
}

// expiring makes john's token that expires after d.
func expiring(t testing.TB, d time.Duration, n int64) string {
	t.Helper()
	raw, err := tokens.Sign(key, tokens.Claims{UserID: "john", ExpiresAt: time.Now().Add(d), IssuedAt: time.Unix(n, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// T6: early refresh, to the nanosecond, and never for a token without a usable
// exp or one that came too late.
func TestT6_Early(t *testing.T) {
	const early = 30 * time.Second
	for _, c := range []struct {
		name  string
		raw   func(t *testing.T, call int64) string
		after time.Duration
		calls int
	}{
		{"not yet", func(t *testing.T, n int64) string { return expiring(t, time.Hour, n) }, time.Hour - early - 1, 1},
		{"due", func(t *testing.T, n int64) string { return expiring(t, time.Hour, n) }, time.Hour - early, 2},
		{"no exp", func(t *testing.T, n int64) string { return mint(t, "john", n) }, 1000 * time.Hour, 1},
		{"huge", func(*testing.T, int64) string { return raw(`{"user_id":"john","exp":9999999999999999999}`) }, 1000 * time.Hour, 1},
		{"negative", func(*testing.T, int64) string { return raw(`{"user_id":"john","exp":-5}`) }, time.Hour, 1},
		{"text", func(*testing.T, int64) string { return raw(`{"user_id":"john","exp":"946684801"}`) }, time.Hour, 1},
		{"short life", func(t *testing.T, n int64) string { return expiring(t, early, n) }, time.Hour, 1},
		{"already expired", func(*testing.T, int64) string { return raw(`{"user_id":"john","exp":1}`) }, time.Hour, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &backend{t: t, serve: func(_ context.Context, call int) (string, error) { return c.raw(t, int64(call)), nil }}
				cache := tokens.NewCache(b, tokens.CacheOptions{UserID: "john", Early: early})
				load(t, cache)
				time.Sleep(c.after)
				if _, ok := cache.Cached(); ok != (c.calls == 1) {
					t.Errorf("cached: %v", ok)
				}
				load(t, cache)
				b.wantCalls(c.calls)
			})
		})
	}
}

// T4, C9: whatever callers do at once, calls never overlap (the backend looks),
// every Load ends with a token of its user or an honest error, and nothing is
// left at the end (the bubble looks).
func TestCacheUnderRandomUse(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				random := rand.New(rand.NewPCG(seed, 0))
				pick := func(n int) int {
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(n)
				}
				c, b := setup(t, nil)
				b.serve = func(ctx context.Context, call int) (string, error) {
					d := time.Duration(pick(40)) * time.Second
					switch pick(8) {
					case 0:
						panic("now and then")
					case 1:
						runtime.Goexit()
					case 2:
						return "", errors.New("backend down")
					case 3, 4:
						return deaf(t, d)(ctx, pick(3))
					}
					return slow(t, d)(ctx, pick(3))
				}
				var loaded atomic.Int32
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						for range 50 {
							time.Sleep(time.Duration(pick(20)) * time.Second)
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(pick(60))*time.Second)
							token, err := c.Load(ctx)
							cancel()
							if (err == nil) == token.IsZero() || token.UserID() != "john" && err == nil {
								t.Errorf("user %q, %v", token.UserID(), err)
							}
							if err == nil {
								loaded.Add(1)
							}
							switch pick(6) {
							case 0:
								c.Drop()
							case 1, 2:
								c.Refuse(token)
							}
						}
					})
				}
				wg.Wait()
				<-c.Done()
				if loaded.Load() == 0 {
					t.Error("no load succeeded: the walk proves little")
				}
			})
		})
	}
}

func BenchmarkCacheLoad(b *testing.B) {
	c, _ := setup(b, nil)
	if _, err := c.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Load(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached, parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				c.Load(b.Context())
			}
		})
	})
	b.Run("asked", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Drop()
			if _, err := c.Load(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
