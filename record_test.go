package chatconn_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
)

// live leads a Conn through a random life of so many happenings, in which calls,
// news and faults come at any moment, and closes it.
func live(w *world, r *rand.Rand, happenings int) {
	calls, hangUp := context.WithCancel(w.Context())
	src := w.source("john")
	src.meddle = func(ctx context.Context, call int) error {
		switch r := call % 7; r {
		case 3:
			return errors.New("the backend says: secret-of-the-source")
		case 5:
			return obedient(ctx, call)
		}
		return nil
	}
	black := false
	for range happenings {
		switch r.IntN(14) {
		case 0, 1, 2:
			w.connect(calls, src)
		case 3:
			w.conn.Background()
		case 4, 5:
			w.conn.Foreground()
		case 6:
			w.conn.NetworkLost()
		case 7, 8:
			w.conn.NetworkAvailable()
		case 9:
			w.server.ExpireTokens("john", true)
		case 10:
			w.server.CloseAll(1011, "overload")
		case 11:
			black = !black
			w.net.BlackHole(black)
		case 12:
			_ = w.conn.DisconnectSocket(w.Context())
		case 13:
			go w.conn.ReconnectSocket(calls)
		}
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Second))))
	}
	w.net.BlackHole(false)
	hangUp()
	w.close()
}

var howLong = flag.Int("happenings", 1000, "how long the random life is that TestRecordingOfARandomLife records")

// O4: the recording of a long random life replays clean; its attempts and loads are
// those that the Conn has counted; nothing that is secret is in it (T11). One line
// removed, doubled or changed is caught where it stands.
func TestRecordingOfARandomLife(t *testing.T) {
	var out bytes.Buffer
	var stats chatconn.Stats
	inWorld(t, func(cfg *chatconn.Config) { cfg.Record = &out }, func(w *world) {
		live(w, rand.New(rand.NewPCG(11, 12)), *howLong)
		stats = w.conn.Stats()
	})
	var sum recording.Summary
	cells := map[[2]any]bool{}
	if err := recording.Replay(bytes.NewReader(out.Bytes()), func(s recording.Step) {
		sum.Add(s)
		cells[[2]any{s.From, s.Event}] = true
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d transitions, %d cells; %d attempts, %d loads, %d drops", sum.Transitions, len(cells), sum.Attempts, sum.Loads, sum.Drops)
	if uint64(sum.Attempts) != stats.Attempts || uint64(sum.Loads) != stats.Loads {
		t.Errorf("the recording has %d attempts and %d loads, the Conn counts %d and %d", sum.Attempts, sum.Loads, stats.Attempts, stats.Loads)
	}
	if sum.Transitions < *howLong || len(cells) < 40 || sum.Conns() != 1 || sum.In(fsm.Connected) == 0 {
		t.Errorf("the life shows too little: %d transitions of %d cells", sum.Transitions, len(cells))
	}
	for _, secret := range []string{"eyJ", "secret", "john", "127.0.0.1"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the recording contains %q", secret)
		}
	}

	lines := slices.Collect(strings.Lines(out.String()))
	for i := 0; i < len(lines)-1; i += 1 + len(lines)/13 {
		for what, c := range map[string]struct {
			lines []string
			at    int
		}{
			"removed": {slices.Delete(slices.Clone(lines), i, i+1), i + 1},
			"doubled": {slices.Insert(slices.Clone(lines), i, lines[i]), i + 2},
			"changed": {slices.Replace(slices.Clone(lines), i, i+1, strings.Replace(lines[i], `"to":"`, `"to":"Un`, 1)), i + 1},
		} {
			var e *recording.Error
			err := recording.Replay(strings.NewReader(strings.Join(c.lines[:i+2], "")), nil)
			if !errors.As(err, &e) || e.Line != c.at {
				t.Errorf("line %d %s: %v, want line %d", i+1, what, err, c.at)
			}
		}
	}
}

// shared is a writer that several Conns may use.
type shared struct {
	mu sync.Mutex
	bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Buffer.Write(p)
}

// O4: two Conns may write into one recording, and stay apart.
func TestTwoConnsOneRecording(t *testing.T) {
	var out shared
	inWorld(t, func(cfg *chatconn.Config) { cfg.Record = &out }, func(w *world) {
		first := w.conn
		w.login(w.source("john"))
		w.conn = w.newConn()
		w.login(w.source("jane"))
		first.Background()
		w.conn.Background()
		w.close()
		w.conn = first
		w.close()
	})
	var sum recording.Summary
	if err := recording.Replay(&out, sum.Add); err != nil || sum.Conns() != 2 || sum.Transitions != 12 {
		t.Errorf("%d transitions of %d connections, %v", sum.Transitions, sum.Conns(), err)
	}
}

// O4, L1: a Conn that is closed while the background waits for its grace takes no
// step after its last.
func TestRecordingOfACloseDuringTheGrace(t *testing.T) {
	var out bytes.Buffer
	inWorld(t, func(cfg *chatconn.Config) { cfg.Record, cfg.BackgroundGrace = &out, time.Minute }, func(w *world) {
		w.login(w.source("john"))
		w.conn.Background()
		w.is(fsm.Connected)
		w.close()
		time.Sleep(time.Hour)
	})
	var last recording.Step
	if err := recording.Replay(&out, func(s recording.Step) { last = s }); err != nil || last.Event != fsm.Close {
		t.Errorf("the recording ends with %v: %v", last.Event, err)
	}
}
