package chatconn_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
	"github.com/chatconn/chatconn/tokens"
)

// fate is a whole life of a Conn that bytes decide: two for each thing that happens,
// what and how.
type fate struct {
	*world
	src     *source
	how     atomic.Uint32 // how the source of john answers, see token
	calls   context.Context
	stopped bool
	closed  bool
}

// happenings are what can happen. arg is any byte.
var happenings = []func(f *fate, arg byte){
	// Calls. Those that wait do so in the background.
	func(f *fate, arg byte) {
		f.call(arg, func(ctx context.Context) error {
			_, err := f.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, f.src)
			return err
		})
	},
	func(f *fate, arg byte) {
		token := f.server.Token("john", time.Duration(arg)*time.Second)
		f.call(arg, func(ctx context.Context) error {
			_, err := f.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, tokens.Static(token))
			return err
		})
	},
	func(f *fate, arg byte) {
		f.call(arg, func(ctx context.Context) error {
			_, err := f.conn.SwitchUser(ctx, chatconn.User{ID: "jane"}, f.source("jane"))
			return err
		})
	},
	func(f *fate, arg byte) {
		f.call(arg, func(ctx context.Context) error { _, err := f.conn.ConnectAnonymous(ctx); return err })
	},
	func(f *fate, arg byte) {
		f.call(arg, func(ctx context.Context) error {
			_, err := f.conn.ConnectGuest(ctx, chatconn.User{ID: "guest"})
			return err
		})
	},
	func(f *fate, arg byte) {
		f.call(arg, func(ctx context.Context) error { _, err := f.conn.ReconnectSocket(ctx); return err })
	},
	func(f *fate, arg byte) {
		f.call(arg, func(ctx context.Context) error {
			return do(ctx, f.conn.HTTPClient(), f.server.URL()+"/app", "").err
		})
	},
	func(f *fate, arg byte) { f.left(f.conn.DisconnectSocket(f.Context())) },
	func(f *fate, arg byte) { f.left(f.conn.Disconnect(f.Context(), chatconn.Persistence(arg%2))) },
	func(f *fate, arg byte) {
		if arg == 0 {
			f.closed = true
			f.left(f.conn.Close())
		}
	},
	// News.
	func(f *fate, arg byte) { f.conn.Background() },
	func(f *fate, arg byte) { f.conn.Foreground() },
	func(f *fate, arg byte) { f.conn.NetworkLost() },
	func(f *fate, arg byte) { f.conn.NetworkAvailable() },
	func(f *fate, arg byte) { f.conn.Woke() },
	// The source.
	func(f *fate, arg byte) { f.how.Store(uint32(arg)) },
	// The server.
	func(f *fate, arg byte) {
		if f.stopped = arg%2 == 0; f.stopped {
			f.server.Stop()
		} else {
			_ = f.server.Restart()
		}
	},
	func(f *fate, arg byte) { f.server.DropAll() },
	func(f *fate, arg byte) { f.server.CloseAll(1000+int(arg%16), "bye") },
	func(f *fate, arg byte) { f.server.Kick("", refusal(arg)) },
	func(f *fate, arg byte) { f.server.FailHandshakes(int(arg%4), refusal(arg)) },
	func(f *fate, arg byte) { f.server.FailUpgrades(int(arg%4), answer(arg)) },
	func(f *fate, arg byte) { f.server.FailRequests(int(arg%4), answer(arg)) },
	func(f *fate, arg byte) { f.server.ExpireTokens("john", arg%2 == 0) },
	func(f *fate, arg byte) { f.server.RevokeTokens("john", time.Now()) },
	func(f *fate, arg byte) {
		frames := []string{"null", "[]", "}", `{"error":null}`, `{"type":"health.check","connection_id":"other"}`, `{"error":{"code":-1}}`, `{"type":"x"}`, "\xff",
			`{"type":"connection.error"}`, `{"error":{"code":1e99}}`, strings.Repeat(`{"a":`, 3000)}
		f.server.Garbage("", []byte(frames[int(arg)%len(frames)]), arg >= 128)
	},
	func(f *fate, arg byte) { f.server.Oversize("", 1<<20-3+int(arg%8)) },
	func(f *fate, arg byte) { f.server.Silence(arg%2 == 0) },
	func(f *fate, arg byte) { f.server.SilenceHTTP(arg%2 == 0) },
	func(f *fate, arg byte) { f.server.StopHealth(arg%2 == 0) },
	func(f *fate, arg byte) { f.server.BareErrors(arg%2 == 0) },
	func(f *fate, arg byte) { f.server.Compress(arg%2 == 0) },
	func(f *fate, arg byte) { f.server.RefuseConnections(arg%2 == 0) },
	func(f *fate, arg byte) { f.server.DropAfter(int(arg % 5)) },
	func(f *fate, arg byte) { f.server.Slow(time.Duration(arg) * 100 * time.Millisecond) },
	func(f *fate, arg byte) { f.server.Heal() },
	// The network.
	func(f *fate, arg byte) { f.net.BlackHole(arg%2 == 0) },
	func(f *fate, arg byte) { f.net.Reset() },
	func(f *fate, arg byte) { f.net.SetLatency(time.Duration(arg) * 20 * time.Millisecond) },
	// Time: moments, seconds, minutes.
	func(f *fate, arg byte) { synctest.Wait() },
	func(f *fate, arg byte) { time.Sleep(time.Duration(arg) * 10 * time.Millisecond) },
	func(f *fate, arg byte) { time.Sleep(time.Duration(arg) * 200 * time.Millisecond) },
	func(f *fate, arg byte) { time.Sleep(time.Duration(arg) * 10 * time.Second) },
}

func refusal(arg byte) devserver.APIError {
	codes := []int{40, 41, 42, 43, 5, 2, 4, 9, 16, 17, 69, 71, 99, 107, 3, 23, -1, 1000}
	return devserver.APIError{Code: codes[int(arg/4)%len(codes)], Unrecoverable: arg == 255}
}

func answer(arg byte) devserver.Answer {
	a := devserver.Answer{Status: []int{401, 403, 404, 407, 408, 429, 500, 503, 200, 302}[int(arg/8)%10]}
	if arg%2 == 0 {
		a.Code = refusal(arg).Code
	}
	if a.Status == 429 || a.Status == 503 {
		a.RetryAfter = time.Duration(arg) * 10 * time.Second
	}
	return a
}

// call makes a call that may wait; of some the context ends.
func (f *fate) call(arg byte, do func(context.Context) error) {
	ctx, cancel := f.calls, context.CancelFunc(func() {})
	if arg%4 != 0 {
		ctx, cancel = context.WithTimeout(f.calls, time.Duration(arg)*time.Second)
	}
	go func() {
		defer cancel()
		if err := do(ctx); err != nil && strings.Contains(err.Error(), "eyJ") {
			f.Error("T11: a call's error holds a token")
		}
	}()
}

func (f *fate) left(err error) {
	if err != nil && !errors.Is(err, chatconn.ErrClosed) {
		f.Errorf("C7: leaving: %v", err)
	}
}

// token is what the source of john does.
func (f *fate) token(ctx context.Context, _ int) error {
	switch how := f.how.Load(); how % 8 {
	case 1:
		return errors.New("no network")
	case 2:
		return tokens.Permanent(errors.New("gone"))
	case 3:
		panic("a bug in the program")
	case 4:
		return obedient(ctx, 0)
	case 5:
		time.Sleep(time.Duration(how) * time.Second) // whatever its context says
	case 6:
		f.conn.Background()
		f.conn.Foreground()
	case 7:
		return f.conn.DisconnectSocket(ctx)
	}
	return nil
}

// What decides a life takes no turn that the table does not have, ends in every
// way that the promises name, and leaves nothing, whatever happens in whatever
// order: M2, M5, C7, C9, T3, T4, T11, R2, O4.
func FuzzConn(f *testing.F) {
	for i := range happenings { // each of them once, in a life that connects
		f.Add([]byte{0, 0, 40, 0, byte(i), 0, 41, 20, byte(i), 1, 41, 200})
		f.Add([]byte{byte(i), 2, 0, 0, 42, 1, byte(i), 4})
	}
	f.Add([]byte{0, 0, 36, 0, 41, 255, 10, 0, 12, 0, 36, 1, 13, 0, 11, 0, 8, 0, 0, 1, 41, 10, 9, 0, 0, 0})
	const most = 2 * 60
	r := rand.New(rand.NewPCG(6, 4))
	for range 20 { // and long lives, half of whose steps are time, so that things happen
		script := make([]byte, most)
		for i := 0; i < most; i += 2 {
			script[i], script[i+1] = byte(r.IntN(len(happenings))), byte(r.Uint32())
			if r.IntN(2) == 0 {
				script[i] = byte(len(happenings) - 1 - r.IntN(3))
			}
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), most)]
		var tape, log shared
		inWorld(t, func(cfg *chatconn.Config) {
			cfg.Record = &tape
			cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}, func(w *world) {
			calls, hangUp := context.WithCancel(w.Context())
			f := &fate{world: w, src: w.source("john"), calls: calls}
			f.src.meddle = f.token
			watched := make(chan struct{})
			go func() {
				defer close(watched)
				var last chatconn.Change
				for c := range w.conn.Watch(context.Background()) {
					if c.Missed == 0 && last.Seq != 0 && (c.From != last.To || c.Seq != last.Seq+1) {
						w.Errorf("O1: change %d goes on from %v, and %d ended in %v", c.Seq, c.From, last.Seq, last.To)
					}
					last = c
				}
			}()
			for ; len(script) >= 2; script = script[2:] {
				happenings[int(script[0])%len(happenings)](f, script[1])
			}
			f.calm(hangUp)
			w.within("C9: Close", func() { w.close() })
			<-watched
			for f.src.running.Load() > 0 { // C9: what ignores its context is left behind
				time.Sleep(time.Second)
			}
			if s := w.conn.Stats(); s.Waiting != 0 || s.State != fsm.Offline {
				w.Errorf("after Close: %+v", s)
			}
			if n := f.src.most.Load(); n > 1 {
				w.Errorf("T4: the source was asked %d times at once", n)
			}
		})
		for what, text := range map[string]*shared{"recording": &tape, "log": &log} {
			if strings.Contains(text.String(), "eyJ") {
				t.Errorf("T11: the %s holds a token", what)
			}
		}
		if err := recording.Replay(bytes.NewReader(tape.Bytes()), nil); err != nil {
			t.Errorf("M2: no path of the table: %v", err)
		}
	})
}

// calm lets the world become good, in which the connection has to arrive
// somewhere by itself, and serves another user.
func (f *fate) calm(hangUp func()) {
	synctest.Wait() // every call is made
	f.how.Store(0)
	f.net.BlackHole(false)
	f.net.SetLatency(0)
	f.server.Heal()
	if f.stopped {
		_ = f.server.Restart()
	}
	f.conn.Foreground()
	f.conn.NetworkAvailable()
	ctx, cancel := context.WithTimeout(f.Context(), 20*time.Minute)
	defer cancel()
	state, err := f.conn.Wait(ctx, fsm.Connected, fsm.Offline)
	switch {
	case f.closed:
		hangUp()
		wantError(f, "Wait", err, chatconn.ErrClosed)
		return
	case err != nil:
		f.Fatalf("R2: still %v after twenty minutes of calm: %v; %+v", state, err, f.conn.Stats())
	}
	hangUp()
	synctest.Wait()
	f.within("C7: Disconnect", func() { f.left(f.conn.Disconnect(f.Context(), chatconn.KeepPersistence)) })
	if _, err := f.conn.ConnectUser(ctx, chatconn.User{ID: "jim"}, f.source("jim")); err != nil {
		f.Errorf("another user cannot connect: %v", err)
	}
}

// within checks that a call that leaves is done within its second.
func (w *world) within(what string, leave func()) {
	w.Helper()
	began := time.Now()
	leave()
	if took := time.Since(began); took > time.Second+200*time.Millisecond {
		w.Errorf("%s took %v", what, took)
	}
}
