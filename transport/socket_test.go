package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/internal/hooked"
	"github.com/gorilla/websocket"
)

func TestFrames(t *testing.T) {
	binary := func(p peer) { p.WriteMessage(websocket.BinaryMessage, []byte(`{"type":"binary"}`)) }
	service := speak([]string{hello}, func(p peer) {
		p.say(`{"type":"a","cid":"messaging:x","user":{"id":"bob"},"created_at":"2026-01-01T00:00:00Z"}`)
		binary(p)
		p.say(`{"type":"health.check","connection_id":"id-1"}`)
		for _, message := range hostile {
			if want, ok := twin([]byte(message)); !ok || string(want.Type) == "" {
				p.say(message)
			}
		}
		p.say(`{"type":"b","user_id":"\u0063arl"}`, `{"error":null}`, `{"type":"custom","error":{"code":40}}`, "{}")
		p.bye(1012, "restart")
	})
	inBubble(t, service, func(b *bench) {
		b.options.MaxMessageBytes = 2 << 20
		var got []string
		err := b.dial().Serve(Handler{Receive: func(f Frame) {
			if _, ok := twin(f.Raw); ok && len(f.Type) > 0 {
				got = append(got, fmt.Sprintf("%s|%s|%s|%s", f.Type, f.CID, f.UserID, f.CreatedAt))
			}
		}})
		want := []string{"a|messaging:x|bob|2026-01-01T00:00:00Z", "b||carl|", "custom|||"}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("S4: got %q, want %q", got, want)
		}
		e := asError(t, err)
		wantKind(t, e, "open", Closed)
		if e.CloseCode != 1012 || e.Body != "restart" {
			t.Errorf("close code %d, reason %q", e.CloseCode, e.Body)
		}
	})
}

func TestEnds(t *testing.T) {
	code := func(p peer) {
		p.say(`{"type":"last"}`)
		p.bye(1011, "token "+secretToken)
	}
	for name, test := range map[string]struct {
		end  func(p peer)
		kind Kind
		code int
		body string
		is   error
	}{
		"close frame":       {code, Closed, 1011, "token [redacted]", nil},
		"without code":      {func(p peer) { p.say(`{"type":"last"}`); p.WriteMessage(websocket.CloseMessage, nil); p.drain() }, Closed, 1005, "", nil},
		"end of the stream": {func(p peer) { p.say(`{"type":"last"}`) }, Closed, 1006, "", io.ErrUnexpectedEOF},
		"inside a frame": {func(p peer) {
			p.say(`{"type":"last"}`)
			p.NetConn().Write([]byte{0x81, 126, 1, 0, '{'})
		}, Closed, 1006, "", io.ErrUnexpectedEOF},
		"reserved opcode": {func(p peer) {
			p.say(`{"type":"last"}`)
			p.NetConn().Write([]byte{0x83, 0})
			p.drain()
		}, Malformed, 0, "", nil},
		"masked": {func(p peer) {
			p.say(`{"type":"last"}`)
			p.NetConn().Write([]byte{0x81, 0x80, 1, 2, 3, 4})
			p.drain()
		}, Malformed, 0, "", nil},
		"compressed": {func(p peer) {
			p.say(`{"type":"last"}`)
			p.NetConn().Write([]byte{0xc1, 1, 'x'})
			p.drain()
		}, Malformed, 0, "", nil},
		"too long": {func(p peer) {
			p.say(`{"type":"last"}`, `{"a":"`+strings.Repeat("a", 1<<20-8)+`"} `)
			p.drain()
		}, Oversize, 0, "", errOversize},
		"too long in pieces": {func(p peer) {
			p.say(`{"type":"last"}`)
			w, _ := p.NextWriter(websocket.TextMessage)
			for range 1 << 10 {
				w.Write(make([]byte, 2<<10))
			}
			w.Close()
			p.drain()
		}, Oversize, 0, "", errOversize},
		"length beyond all bounds": {func(p peer) {
			p.say(`{"type":"last"}`)
			p.NetConn().Write([]byte{0x81, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255})
			p.NetConn().Write(make([]byte, 2<<20))
			hold(p.NetConn())
		}, Oversize, 0, "", errOversize},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{hello}, test.end), func(b *bench) {
				run := b.serve()
				e := run.end(t)
				wantKind(t, e, "open", test.kind)
				if e.CloseCode != test.code || e.Body != test.body || test.is != nil && !errors.Is(e, test.is) {
					t.Errorf("code %d, body %q, cause %v; want %d, %q, %v", e.CloseCode, e.Body, e.Err, test.code, test.body, test.is)
				}
				// What came before the end was received.
				if got := <-run.frames; got != `{"type":"last"}` || len(run.frames) != 0 {
					t.Errorf("received %q and %d more", got, len(run.frames))
				}
				if b.network.Open() != 0 {
					t.Error("the connection is open")
				}
			})
		})
	}
}

// S2: a message of exactly the cap passes, whole or in pieces.
func TestLongestMessage(t *testing.T) {
	long := `{"a":"` + strings.Repeat("a", 1<<20-8) + `"}`
	inBubble(t, speak([]string{hello, long}, func(p peer) {
		w, _ := p.NextWriter(websocket.TextMessage)
		for i := 0; i < len(long); i += 1 << 16 {
			io.WriteString(w, long[i:i+1<<16])
		}
		w.Close()
		p.bye(1000, "")
	}), func(b *bench) {
		run := b.serve()
		wantKind(t, run.end(t), "open", Closed)
		for range 2 {
			if <-run.frames != long {
				t.Error("the message was changed")
			}
		}
	})
}

func TestReset(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
		run := b.serve()
		b.network.Reset()
		e := run.end(t)
		wantKind(t, e, "open", Network)
		if !errors.Is(e, syscall.ECONNRESET) {
			t.Errorf("cause %v, want a reset", e.Err)
		}
	})
}

// E: the reason comes in an error frame before the close, in either envelope, and
// ends the socket at once.
func TestErrorFrames(t *testing.T) {
	for name, test := range map[string]struct {
		frame string
		want  *Refusal
		body  string
	}{
		"monolith":      {`{"type":"connection.error","created_at":"x","connection_id":"","error":{"code":40,"StatusCode":401,"message":"expired ` + secretToken + `"}}`, &Refusal{Code: 40, StatusCode: 401, Message: "expired [redacted]"}, ""},
		"edge":          {`{"error":{"code":43,"message":"signature","StatusCode":401,"duration":"0.00ms"}}`, &Refusal{Code: 43, StatusCode: 401, Message: "signature"}, ""},
		"unrecoverable": {`{"error":{"code":-1,"unrecoverable":true}}`, &Refusal{Code: -1, Unrecoverable: true}, ""},
		"no API error":  {`{"type":"connection.error","error":"` + secretToken + `"}`, nil, `{"type":"connection.error","error":"[redacted]"}`},
		"no error":      {`{"type":"connection.error"}`, nil, `{"type":"connection.error"}`},
		"the last wins": {`{"error":{"code":1},"error":{"code":2}}`, &Refusal{Code: 2}, ""},
	} {
		check := func(t *testing.T, phase string, e *Error) {
			t.Helper()
			wantKind(t, e, phase, Told)
			if fmt.Sprint(e.Refusal) != fmt.Sprint(test.want) || e.Body != test.body || e.CloseCode != 0 {
				t.Errorf("refusal %v, body %q; want %v, %q", e.Refusal, e.Body, test.want, test.body)
			}
		}
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{test.frame, hello}, peer.drain), func(b *bench) {
				check(t, "hello", b.fail(b.Context()))
			})
			inBubble(t, speak([]string{hello, `{"type":"a"}`, test.frame, `{"type":"b"}`}, func(p peer) { p.bye(1000, "") }), func(b *bench) {
				run := b.serve()
				check(t, "open", run.end(t))
				if len(run.frames) != 1 {
					t.Errorf("%d frames received, want the one before the error", len(run.frames))
				}
			})
			// No close follows: the socket does not wait for one.
			inBubble(t, speak([]string{hello, test.frame}, peer.drain), func(b *bench) {
				run := b.serve()
				wantSpan(t, "the end", 0, func() { check(t, "open", run.end(t)) })
			})
		})
	}
}

// H1: a health check goes out every 25 s, for as long as it takes.
func TestHealthChecks(t *testing.T) {
	var checks []string
	var at []time.Duration
	inBubble(t, speak([]string{hello}, func(p peer) {
		start := time.Now()
		for {
			kind, m, err := p.ReadMessage()
			if err != nil {
				return
			}
			if kind != websocket.TextMessage {
				t.Errorf("a health check of kind %d", kind)
			}
			checks, at = append(checks, string(m)), append(at, time.Since(start))
			p.say(`{"type":"health.check","connection_id":"id-1"}`)
		}
	}), func(b *bench) {
		run := b.serve()
		time.Sleep(24*time.Hour + time.Second)
		run.HangUp()
		wantKind(t, run.end(t), "open", HungUp)
		if len(checks) != 24*3600/25 || len(run.frames) != 0 {
			t.Fatalf("%d checks, %d frames", len(checks), len(run.frames))
		}
		for i := range checks {
			if want := time.Duration(i+1) * 25 * time.Second; at[i] != want || checks[i] != `{"type":"health.check","client_id":"id-1"}` {
				t.Fatalf("check %d: %s after %v, want it after %v", i, checks[i], at[i], want)
			}
		}
	})
}

// H1: any received frame proves life; without one for 35 s the socket is silent.
func TestSilence(t *testing.T) {
	longText := rawFrame(0x81, `"`+strings.Repeat("x", 2*busyRead)+`"`)
	for name, test := range map[string]struct {
		sign func(p peer) // sent after 20 s
		want time.Duration
	}{
		"nothing":            {func(peer) {}, 35 * time.Second},
		"text":               {func(p peer) { p.say(`{"type":"a"}`) }, 55 * time.Second},
		"health check":       {func(p peer) { p.say(`{"type":"health.check"}`) }, 55 * time.Second},
		"malformed text":     {func(p peer) { p.say(`}`) }, 55 * time.Second},
		"binary":             {func(p peer) { p.WriteMessage(websocket.BinaryMessage, nil) }, 55 * time.Second},
		"ping":               {func(p peer) { p.WriteControl(websocket.PingMessage, nil, time.Time{}) }, 55 * time.Second},
		"pong":               {func(p peer) { p.WriteControl(websocket.PongMessage, nil, time.Time{}) }, 55 * time.Second},
		"part of a frame":    {func(p peer) { p.NetConn().Write([]byte{0x81, 126, 1, 0, '{'}) }, 35 * time.Second},
		"part of a header":   {func(p peer) { p.NetConn().Write([]byte{0x81}) }, 35 * time.Second},
		"a fragment":         {func(p peer) { p.NetConn().Write([]byte{0x01, 1, '{'}) }, 55 * time.Second},
		"part of a fragment": {func(p peer) { p.NetConn().Write([]byte{0x01, 2, '{'}) }, 35 * time.Second},
		"a long message":     {func(p peer) { p.NetConn().Write(longText) }, 55 * time.Second},
		"most of a long one": {func(p peer) { p.NetConn().Write(longText[:len(longText)-1]) }, 35 * time.Second},
		"the rest of a frame and part of another": {func(p peer) {
			p.NetConn().Write([]byte{0x81, 2, '{'})
			time.Sleep(10 * time.Second)
			p.NetConn().Write([]byte{'}', 0x81, 2, '{'})
		}, 65 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{hello}, func(p peer) {
				time.Sleep(20 * time.Second)
				test.sign(p)
				p.drain()
			}), func(b *bench) {
				run := b.serve()
				wantSpan(t, "silence", test.want, func() { wantKind(t, run.end(t), "open", Silent) })
			})
		})
	}
}

// A sign of life that is found when the socket has ended already changes nothing.
func TestSignOfLifeTooLate(t *testing.T) {
	inBubble(t, speak([]string{hello}, func(p peer) {
		p.NetConn().Write(append(rawFrame(0x81, `{"type":"a"}`), rawFrame(0x89, "")...))
		p.drain()
	}), func(b *bench) {
		s := b.dial()
		err := s.Serve(Handler{Receive: func(Frame) { time.Sleep(40 * time.Second) }}) // a check goes out meanwhile
		wantKind(t, asError(t, err), "open", Silent)
		<-s.Gone()
		time.Sleep(time.Hour)
	})
}

// H2: a peer that has gone without a word is found within 35 s.
func TestHalfOpenLink(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.echo), func(b *bench) {
		run := b.serve()
		time.Sleep(100*time.Second + time.Millisecond)
		b.network.BlackHole(true)
		wantSpan(t, "silence", 35*time.Second-time.Millisecond, func() { wantKind(t, run.end(t), "open", Silent) })
		b.network.BlackHole(false)
	})
}

// A socket that is never served ends as silent, and keeps nothing.
func TestNeverServed(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
		s := b.dial()
		wantSpan(t, "silence", 35*time.Second, func() { <-s.Gone() })
		var told []*Error
		wantKind(t, asError(t, s.Serve(Handler{Ended: func(why *Error) { told = append(told, why) }})), "open", Silent)
		if len(told) != 1 || told[0].Kind != Silent {
			t.Errorf("the end was told as %v", told)
		}
		s.HangUp()
		s.Probe()
		<-s.Hung()
	})
}

// The monitor can be switched off, as a whole and by halves.
func TestMonitorOff(t *testing.T) {
	checks := 0
	count := func(p peer) {
		for {
			if _, _, err := p.ReadMessage(); err != nil {
				return
			}
			checks++
		}
	}
	for name, test := range map[string]struct {
		interval, timeout time.Duration
		checks            int
		kind              Kind
	}{
		"both":    {-1, -1, 0, HungUp},
		"zero":    {0, 0, 0, HungUp},
		"checks":  {0, 35 * time.Second, 0, Silent},
		"timeout": {25 * time.Second, 0, 143, HungUp},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{hello}, count), func(b *bench) {
				checks = 0
				b.options.HealthCheckInterval, b.options.HealthTimeout = test.interval, test.timeout
				run := b.serve()
				time.Sleep(time.Hour - time.Second)
				run.HangUp()
				wantKind(t, run.end(t), "open", test.kind)
				if checks != test.checks {
					t.Errorf("%d checks, want %d", checks, test.checks)
				}
			})
		})
	}
}

// H3: a probe that nobody answers ends the socket, long before the silence would.
func TestProbe(t *testing.T) {
	t.Run("unanswered", func(t *testing.T) {
		inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
			run := b.serve()
			time.Sleep(time.Second)
			wantSpan(t, "the end", 10*time.Second, func() {
				run.Probe()
				// More probes of the same silence do not put its end off.
				for range 3 {
					time.Sleep(3 * time.Second)
					run.Probe()
				}
				wantKind(t, run.end(t), "open", Unanswered)
			})
		})
	})
	t.Run("answered", func(t *testing.T) {
		inBubble(t, speak([]string{hello}, peer.echo), func(b *bench) {
			b.network.SetLatency(time.Second)
			run := b.serve()
			for range 3 {
				run.Probe()
				time.Sleep(time.Hour)
			}
			run.HangUp()
			wantKind(t, run.end(t), "open", HungUp)
		})
	})
	t.Run("the check goes out at once and counts as one", func(t *testing.T) {
		var at []time.Duration
		inBubble(t, speak([]string{hello}, func(p peer) {
			start := time.Now()
			for {
				if _, _, err := p.ReadMessage(); err != nil {
					return
				}
				at = append(at, time.Since(start))
				p.say(`{"type":"health.check"}`)
			}
		}), func(b *bench) {
			run := b.serve()
			time.Sleep(10 * time.Second)
			run.Probe()
			time.Sleep(30 * time.Second)
			run.HangUp()
			run.end(t)
			if fmt.Sprint(at) != "[10s 35s]" {
				t.Errorf("checks at %v", at)
			}
		})
	})
	t.Run("without a monitor", func(t *testing.T) {
		inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
			b.options.HealthCheckInterval, b.options.HealthTimeout = -1, -1
			run := b.serve()
			time.Sleep(time.Hour)
			wantSpan(t, "the end", b.options.WriteTimeout, func() {
				run.Probe()
				wantKind(t, run.end(t), "open", Unanswered)
			})
		})
	})
}

func TestHangUp(t *testing.T) {
	polite := func(p peer) { p.drain() }
	stuck := func(p peer) { hold(p.NetConn()) } // never answers the close
	for name, test := range map[string]struct {
		peer  func(peer)
		serve bool
		span  time.Duration
	}{
		"served, polite peer":   {polite, true, 2 * time.Millisecond},
		"unserved, polite peer": {polite, false, 2 * time.Millisecond},
		"served, deaf peer":     {stuck, true, time.Second},
		"unserved, deaf peer":   {stuck, false, time.Second},
		"served, talking peer": {func(p peer) {
			for p.WriteMessage(websocket.TextMessage, []byte(`{"type":"a"}`)) == nil {
				time.Sleep(time.Millisecond)
			}
		}, true, time.Second},
		"unserved, pinging peer": {func(p peer) {
			for p.WriteControl(websocket.PingMessage, nil, time.Time{}) == nil {
				time.Sleep(time.Millisecond)
			}
		}, false, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var closeCode int
			inBubble(t, speak([]string{hello}, func(p peer) {
				answer := p.CloseHandler()
				p.SetCloseHandler(func(code int, text string) error {
					closeCode = code
					return answer(code, text)
				})
				test.peer(p)
			}), func(b *bench) {
				b.network.SetLatency(time.Millisecond)
				s := b.dial()
				run := &session{Socket: s, ended: make(chan *Error, 1)}
				var hung atomic.Bool
				if test.serve {
					go func() {
						run.ended <- asError(t, s.Serve(Handler{Receive: func(f Frame) {
							if hung.Load() {
								t.Error("a frame was received after HangUp")
							}
						}}))
					}()
					time.Sleep(10*time.Millisecond + time.Microsecond)
				}
				wantSpan(t, "HangUp", 0, s.HangUp)
				hung.Store(true)
				wantSpan(t, "the close frame", 0, func() { <-s.Hung() })
				s.HangUp()
				select {
				case <-s.Gone():
					t.Error("gone before the peer could answer")
				default:
				}
				wantSpan(t, "the goodbye", test.span, func() { <-s.Gone() })
				if !test.serve {
					run.ended <- asError(t, s.Serve(Handler{}))
				}
				wantKind(t, run.end(t), "open", HungUp)
				if strings.Contains(name, "polite") && closeCode != 1000 {
					t.Errorf("close code %d", closeCode)
				}
				if b.network.Open() != 0 {
					t.Error("the connection is open")
				}
			})
		})
	}
}

// HangUp is legal from inside receive, and a receive that blocks holds up neither
// the close nor Gone.
func TestHangUpInsideReceive(t *testing.T) {
	inBubble(t, speak([]string{hello, `{"type":"a"}`, `{"type":"b"}`}, peer.drain), func(b *bench) {
		s := b.dial()
		received := 0
		wantSpan(t, "Serve", time.Hour, func() {
			e := asError(t, s.Serve(Handler{Receive: func(Frame) {
				received++
				s.HangUp()
				<-s.Hung()
				wantSpan(t, "the goodbye", time.Second, func() { <-s.Gone() })
				time.Sleep(time.Hour - time.Second)
			}}))
			wantKind(t, e, "open", HungUp)
		})
		if received != 1 {
			t.Errorf("%d frames received", received)
		}
	})
}

// After HangUp nothing else counts as the reason, an error frame in the same
// moment included.
func TestHangUpWins(t *testing.T) {
	inBubble(t, speak([]string{hello, `{"type":"a"}`, `{"error":{"code":40}}`}, func(p peer) { p.bye(1011, "") }), func(b *bench) {
		s := b.dial()
		e := asError(t, s.Serve(Handler{Receive: func(Frame) { s.HangUp() }}))
		wantKind(t, e, "open", HungUp)
		s = b.dial()
		s.HangUp()
		s.end(s.told(&envelope{}, nil))
		wantKind(t, asError(t, s.Serve(Handler{})), "open", HungUp)
	})
}

func TestHangUpFromManyGoroutines(t *testing.T) {
	inBubble(t, speak([]string{hello, `{"type":"a"}`}, peer.drain), func(b *bench) {
		for range 20 {
			run := b.serve()
			for range 4 {
				go run.HangUp()
				go run.Probe()
			}
			wantKind(t, run.end(t), "open", HungUp)
		}
	})
}

// HangUp in a black hole takes no longer than CloseTimeout.
func TestHangUpInBlackHole(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
		run := b.serve()
		b.network.BlackHole(true)
		wantSpan(t, "the goodbye", time.Second, func() {
			run.HangUp()
			wantKind(t, run.end(t), "open", HungUp)
		})
		b.network.BlackHole(false)
	})
}

// deafTo pings until the client's answers fill the window, and so its writer is
// stuck.
func deafTo(p peer) {
	for range 256 << 10 / 131 * 2 {
		p.WriteControl(websocket.PingMessage, make([]byte, 125), time.Time{})
		synctest.Wait()
	}
}

// H2: a write that is late ends the socket, but not before what the peer said is
// read; and a stuck writer does not stall reading.
func TestStuckWriter(t *testing.T) {
	const told = `{"error":{"code":9}}`
	for name, test := range map[string]struct {
		then func(p peer)
		kind Kind
		span time.Duration
	}{
		"nothing more":          {func(p peer) {}, Network, 6 * time.Second},
		"an error frame at 1 s": {func(p peer) { time.Sleep(time.Second); p.say(told) }, Told, time.Second},
		"an error frame later":  {func(p peer) { time.Sleep(5500 * time.Millisecond); p.say(told) }, Told, 5500 * time.Millisecond},
		"a close frame later": {func(p peer) {
			time.Sleep(5500 * time.Millisecond)
			p.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1013, ""), time.Time{})
		}, Closed, 5500 * time.Millisecond},
		"nonsense later": {func(p peer) { time.Sleep(5500 * time.Millisecond); p.NetConn().Write([]byte{0x83, 0}) }, Malformed, 5500 * time.Millisecond},
		"the end of the stream": {func(p peer) {
			time.Sleep(5500 * time.Millisecond)
			p.NetConn().(interface{ CloseWrite() error }).CloseWrite()
		}, Network, 5500 * time.Millisecond},
		"an error frame too late": {func(p peer) { time.Sleep(6*time.Second + time.Millisecond); p.say(told) }, Network, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{hello}, func(p peer) {
				deafTo(p)
				p.say(`{"type":"heard"}`)
				test.then(p)
				hold(p.NetConn())
			}), func(b *bench) {
				run := b.serve()
				wantSpan(t, "reading beside a stuck writer", 0, func() {
					if got := <-run.frames; got != `{"type":"heard"}` {
						t.Error(got)
					}
				})
				wantSpan(t, "the end", test.span, func() {
					e := run.end(t)
					wantKind(t, e, "open", test.kind)
					if test.kind == Network && !errors.Is(e, os.ErrDeadlineExceeded) {
						t.Errorf("cause %v, want a deadline exceeded", e.Err)
					}
				})
			})
		})
	}
}

// H2: a health check that cannot be written ends the socket, too.
func TestStuckHealthCheck(t *testing.T) {
	inBubble(t, speak([]string{hello}, func(p peer) { hold(p.NetConn()) }), func(b *bench) {
		var raw net.Conn
		b.options.DialContext = func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
			raw, err = b.network.DialContext(ctx, network, addr)
			return raw, err
		}
		run := b.serve()
		raw.SetWriteDeadline(time.Now().Add(time.Second))
		raw.Write(make([]byte, 1<<20)) // fills the window
		wantSpan(t, "the end", 24*time.Second+b.options.WriteTimeout+b.options.CloseTimeout, func() {
			e := run.end(t)
			wantKind(t, e, "open", Network)
			if !errors.Is(e, os.ErrDeadlineExceeded) {
				t.Errorf("cause %v, want a deadline exceeded", e.Err)
			}
		})
	})
}

// The cause of a failed read is kept where gorilla would keep only its text.
func TestCauseIsKept(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.echo), func(b *bench) {
		b.options.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := b.network.DialContext(ctx, network, addr)
			return readHook{c, func(_ []byte, err error) error {
				if err != nil { // as the kernel fails once it has sent again for too long
					err = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
				}
				return err
			}}, err
		}
		run := b.serve()
		b.network.Reset()
		e := run.end(t)
		wantKind(t, e, "open", Network)
		if !errors.Is(e, syscall.ETIMEDOUT) {
			t.Errorf("cause %v, want a timeout", e.Err)
		}
	})
}

// C7: HangUp beside a stuck writer takes no longer than CloseTimeout.
func TestHangUpBesideStuckWriter(t *testing.T) {
	for _, wait := range []time.Duration{0, 4500 * time.Millisecond, 5500 * time.Millisecond} {
		inBubble(t, speak([]string{hello}, func(p peer) {
			deafTo(p)
			p.say(`{"type":"heard"}`)
			hold(p.NetConn())
		}), func(b *bench) {
			run := b.serve()
			<-run.frames
			time.Sleep(wait)
			run.Probe() // its check waits behind the pong
			wantSpan(t, "the goodbye", time.Second, func() {
				run.HangUp()
				wantKind(t, run.end(t), "open", HungUp)
			})
		})
	}
}

func TestPongs(t *testing.T) {
	var got []string
	inBubble(t, speak([]string{hello}, func(p peer) {
		p.SetPongHandler(func(data string) error { got = append(got, data); return nil })
		for i := range 3 {
			p.WriteControl(websocket.PingMessage, fmt.Appendf(nil, "ping %d", i), time.Time{})
			time.Sleep(time.Second)
		}
		p.bye(1000, "")
	}), func(b *bench) {
		wantKind(t, b.serve().end(t), "open", Closed)
		if fmt.Sprint(got) != "[ping 0 ping 1 ping 2]" {
			t.Errorf("pongs %q", got)
		}
	})
}

// A failed write does not end a socket whose hello is still to come.
func TestPongsBeforeHello(t *testing.T) {
	inRawBubble(t, func(c net.Conn) {
		c.Write(accept(readRequest(c), ""))
		c.Write([]byte{0x89, 1, 'x'})
		pong := make([]byte, 7)
		if _, err := io.ReadFull(c, pong); err != nil || pong[0] != 0x8a {
			t.Errorf("pong % x, %v", pong, err)
		}
		c.Write(text0(hello))
		io.Copy(io.Discard, c)
	}, func(b *bench) {
		s := b.dial()
		s.HangUp()
		<-s.Gone()
	})
}

// An idle socket costs one goroutine.
func TestIdleGoroutines(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.echo), func(b *bench) {
		var runs []*session
		for range 10 {
			runs = append(runs, b.serve())
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		n := 0
		for _, g := range strings.Split(string(stacks), "\n\n") {
			if strings.Contains(g, "transport.(*Socket)") {
				n++
			}
		}
		if n != len(runs) {
			t.Errorf("%d goroutines for %d sockets", n, len(runs))
		}
		for _, run := range runs {
			run.HangUp()
			run.end(t)
		}
	})
}

// H2: a connection that holds up a write beyond its deadline, or ends the goroutine that
// writes, ends its socket with the next health check, though frames come all the time.
func TestWriterThatIsHeldUp(t *testing.T) {
	for name, stick := range map[string]func(free <-chan struct{}){
		"blocks": func(free <-chan struct{}) { <-free }, "ends its goroutine": func(<-chan struct{}) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{hello}, func(p peer) {
				go p.drain()
				for p.WriteMessage(websocket.TextMessage, []byte(`{"type":"x"}`)) == nil {
					time.Sleep(time.Second)
				}
			}), func(b *bench) {
				var armed atomic.Bool
				free := make(chan struct{})
				b.options.DialContext = hooked.Dialer(b.options.DialContext, func(method string) {
					if method == "Write" && armed.Load() {
						stick(free)
					}
				})
				s := b.dial()
				armed.Store(true)
				wantSpan(t, "the end", 50*time.Second, func() { wantKind(t, asError(t, s.Serve(Handler{})), "open", Network) })
				close(free)
				<-s.Gone()
			})
		})
	}
}

// H2: after a failed write the socket is read for as long as a goodbye may take, however
// many pings come meanwhile.
func TestPingsAfterAFailedWrite(t *testing.T) {
	inBubble(t, speak([]string{hello}, func(p peer) {
		go p.drain()
		for p.WriteControl(websocket.PingMessage, nil, time.Time{}) == nil {
			time.Sleep(100 * time.Millisecond)
		}
	}), func(b *bench) {
		var writes atomic.Int32
		dial := b.options.DialContext
		b.options.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return failing{conn, &writes}, err
		}
		s := b.dial()
		wantSpan(t, "the end", time.Second, func() { wantKind(t, asError(t, s.Serve(Handler{})), "open", Network) })
		if n := writes.Load(); n != 2 {
			t.Errorf("%d writes, and not the handshake's and one more", n)
		}
		<-s.Gone()
	})
}

// failing lets only the first write through.
type failing struct {
	net.Conn
	writes *atomic.Int32
}

func (c failing) Write(p []byte) (int, error) {
	if c.writes.Add(1) > 1 {
		return 0, errors.New("no write")
	}
	return c.Conn.Write(p)
}

// Pause follows the last frame, when the end came together with it, too.
func TestPauseAtTheEnd(t *testing.T) {
	inBubble(t, speak([]string{hello}, func(p peer) {
		var together []byte
		for _, message := range []string{`{"type":"x"}`, `{"error":{"code":40}}`} {
			together = append(append(together, finalBit|opText, byte(len(message))), message...)
		}
		p.NetConn().Write(together)
		p.drain()
	}), func(b *bench) {
		var order []string
		s := b.dial()
		e := asError(t, s.Serve(Handler{
			Receive: func(Frame) { order = append(order, "frame") },
			Pause:   func() { order = append(order, "pause") },
			Ended:   func(*Error) { order = append(order, "end") },
		}))
		wantKind(t, e, "open", Told)
		if got := strings.Join(order, " "); got != "pause frame pause end" && got != "frame pause end" {
			t.Errorf("the order was %s", got)
		}
		<-s.Gone()
	})
}

// M4: a connection that ends the goroutine which closes it leaves nothing behind, and one
// whose Read never returns keeps its reader and nothing else: the end is told.
func TestConnectionsOfPrograms(t *testing.T) {
	for name, hook := range map[string]func(method string, free <-chan struct{}){
		"Close ends its goroutine": func(method string, _ <-chan struct{}) {
			if method == "Close" {
				runtime.Goexit()
			}
		},
		"Read blocks": func(method string, free <-chan struct{}) {
			if method == "Read" {
				<-free
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{hello}, func(p peer) { time.Sleep(time.Second); p.bye(1000, ""); p.drain() }), func(b *bench) {
				armed, free, ended := new(atomic.Bool), make(chan struct{}), make(chan *Error, 1)
				b.options.DialContext = hooked.Dialer(b.options.DialContext, func(method string) {
					if armed.Load() {
						hook(method, free)
					}
				})
				s := b.dial()
				armed.Store(true)
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.Serve(Handler{Ended: func(why *Error) { ended <- why }})
				}()
				why, want := <-ended, Closed
				if name == "Read blocks" {
					want = Silent
				}
				wantKind(t, why, "open", want)
				synctest.Wait()
				if name != "Read blocks" {
					<-s.Gone()
				}
				close(free)
				<-done
				<-s.Gone()
				if len(ended) != 0 {
					t.Error("the end was told twice")
				}
			})
		})
	}
}
