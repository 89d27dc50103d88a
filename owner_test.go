package chatconn

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// held makes a Conn whose owner is the test: what is posted stays in the inbox until
// the test takes it, so that news can meet in an order that is hard to come by.
// Nothing answers its dials.
func held(t *testing.T, configure func(*Config)) *Conn {
	cfg := Config{APIKey: "key", BaseURL: "http://127.0.0.1:1", MinDialInterval: -1, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	if configure != nil {
		configure(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.owned = true
	return c
}

// mail returns what is in the inbox once nothing moves any more.
func (c *Conn) mail() []*note {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.inbox
	c.inbox = nil
	return all
}

// takeAll takes what comes until nothing does.
func (c *Conn) takeAll() {
	for all := c.mail(); len(all) > 0; all = c.mail() {
		for _, n := range all {
			c.take(n)
		}
	}
}

// say takes a call of the program.
func (c *Conn) say(k *call) {
	k.answer = make(chan result, 1)
	c.take(&note{call: k})
}

// M5, C5: DisconnectSocket drops the token that the source brings at that very
// moment: its load is abandoned, and so is what it has put into the cache.
func TestDisconnectSocketAsTheSourceAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := held(t, nil)
		loads := 0
		john := User{ID: "john"}
		details, err := checkUser(john)
		if err != nil {
			t.Fatal(err)
		}
		c.say(c.connectCall(john, details, tokens.Func(func(context.Context) (string, error) {
			loads++
			return tokens.Sign([]byte("0123456789abcdef"), tokens.Claims{UserID: "john", IssuedAt: time.Unix(int64(loads), 0)})
		})))
		c.takeAll()
		refused := &transport.Error{Kind: transport.Told, Refusal: &transport.Refusal{Code: codeExpired}}
		dial := c.under[dialing]
		c.take(&note{work: dial, err: refused})
		dial.cancel()
		for _, n := range c.mail() { // the wait of no length, and the dial once more
			c.take(n)
		}
		answer := c.mail()
		if c.pos.State != fsm.Refreshing || loads != 2 || len(answer) != 1 || answer[0].work.kind != loading {
			t.Fatalf("%v after %d loads, and %d notes came", c.pos.State, loads, len(answer))
		}
		late := c.Stats().LateDrops
		c.say(&call{verb: fsm.DisconnectSocket})
		c.take(answer[0])
		if _, cached := c.login.cache.Cached(); cached || c.pos.State != fsm.Offline || !c.token.IsZero() {
			t.Errorf("%v, and a token is cached: %t", c.pos.State, cached)
		}
		if n := c.Stats().LateDrops - late; n != 1 {
			t.Errorf("%d late news are counted, want the token", n)
		}
		c.say(&call{verb: fsm.ReconnectSocket})
		c.takeAll()
		if loads != 3 {
			t.Errorf("T2: %d loads, want another after DisconnectSocket", loads)
		}
		c.say(&call{verb: fsm.Close})
		c.takeAll()
	})
}

// M5, L1: the end of a grace that comes after a Foreground is late, and does not
// end the grace that has begun since.
func TestGraceThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := held(t, func(cfg *Config) { cfg.BackgroundGrace, cfg.AttemptTimeout = time.Minute, time.Hour })
		john := User{ID: "john"}
		c.say(c.connectCall(john, nil, tokens.Dev("john")))
		c.takeAll() // to a dial that nobody answers
		c.take(&note{event: fsm.Background})
		time.Sleep(time.Minute)
		first := c.mail()
		c.take(&note{event: fsm.Foreground})
		c.take(&note{event: fsm.Background})
		if len(first) != 1 || c.pos.State != fsm.Connecting {
			t.Fatalf("%d notes at the end of the grace, %v", len(first), c.pos.State)
		}
		c.take(first[0])
		if c.pos.State != fsm.Connecting || c.Stats().LateDrops != 1 {
			t.Errorf("%v, %d late news", c.pos.State, c.Stats().LateDrops)
		}
		time.Sleep(time.Minute - 1)
		c.takeAll()
		if c.pos.State != fsm.Connecting {
			t.Errorf("%v before the second grace was over", c.pos.State)
		}
		time.Sleep(time.Nanosecond)
		c.takeAll()
		if c.pos.State != fsm.Paused {
			t.Errorf("%v after the second grace", c.pos.State)
		}
		c.say(&call{verb: fsm.Close})
		c.takeAll()
	})
}
