package conntest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/tokens"
)

// sources are the token sources of a script, by name, and how they behave.
type sources struct {
	all   map[string]*source
	how   map[string]behaviour // by the source's name; "": of every other
	last  map[string]string    // the token that a source brought last
	asked int
	early int // tokens from the future
}

// behaviour is the answer of a source, a number of times.
type behaviour struct {
	kind  string
	args  []string
	times int // 0: from now on
	then  []behaviour
}

// source is a token source that behaves as the script says. It prints every call.
type source struct {
	w       *World
	name    string
	user    string // who connected with it last
	running bool
}

// source returns the source of a name: one and the same for every call.
func (w *World) source(name, user string) *source {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sources.all == nil {
		w.sources.all = map[string]*source{}
	}
	s := w.sources.all[name]
	if s == nil {
		s = &source{w: w, name: name}
		w.sources.all[name] = s
	}
	s.user = user
	return s
}

// behave takes the arguments of the command source.
func (w *World) behave(args []string) error {
	name, args := args[0], args
	if _, ok := kinds[name]; ok {
		name = ""
	} else {
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("how?")
	}
	b := behaviour{kind: args[0]}
	if _, ok := kinds[b.kind]; !ok {
		return fmt.Errorf("no source behaves like %q", b.kind)
	}
	for _, arg := range args[1:] {
		if n, ok := strings.CutPrefix(arg, "times="); ok {
			var err error
			if b.times, err = strconv.Atoi(n); err != nil {
				return err
			}
			continue
		}
		b.args = append(b.args, arg)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sources.how == nil {
		w.sources.how = map[string]behaviour{}
	}
	if b.times > 0 {
		b.then = []behaviour{w.sources.how[name]}
	}
	w.sources.how[name] = b
	return nil
}

// behaviour returns how a source is to answer now.
func (s *source) behaviour() (b behaviour, n int, release <-chan struct{}) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources.asked++
	key := s.name
	if _, ok := w.sources.how[key]; !ok {
		key = ""
	}
	b = w.sources.how[key]
	if b.kind == "" {
		b.kind = "ok"
	}
	if b.times > 0 {
		left := b
		if left.times--; left.times == 0 {
			left = b.then[0]
		}
		w.sources.how[key] = left
	}
	if w.ended {
		b = behaviour{kind: "fail"}
	}
	return b, w.sources.asked, w.release
}

// Token answers as the script says.
func (s *source) Token(ctx context.Context) (string, error) {
	s.w.mu.Lock()
	if s.running {
		s.w.faults = append(s.w.faults, "C9, T4: source "+s.name+" is asked while its last call runs")
	}
	s.running = true
	s.w.mu.Unlock()
	defer func() {
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		s.running = false
	}()
	b, n, release := s.behaviour()
	s.say("is asked (load %d)", n)
	token, err := kinds[b.kind](s, ctx, release, b.args)
	if err == nil {
		s.w.mu.Lock()
		s.w.sources.last[s.name] = token
		s.w.mu.Unlock()
	}
	return token, err
}

func (s *source) say(format string, args ...any) {
	s.w.add(line{rank: asked, text: "source " + s.name + " " + fmt.Sprintf(format, args...)})
}

func (s *source) fresh() (string, error) { return s.w.token("ok", s.whom(), 0) }

func (s *source) whom() string {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.user
}

func arg(args []string, otherwise string) string {
	if len(args) > 0 {
		return args[0]
	}
	return otherwise
}

// kinds are the ways in which a source answers. Those of a token are named by the
// token.
var kinds map[string]func(s *source, ctx context.Context, release <-chan struct{}, args []string) (string, error)

func init() {
	type answer = func(s *source, ctx context.Context, release <-chan struct{}, args []string) (string, error)
	kinds = map[string]answer{
		"fail": func(s *source, _ context.Context, _ <-chan struct{}, args []string) (string, error) {
			s.say("fails")
			return "", errors.New(arg(args, "no network"))
		},
		"permanent": func(s *source, _ context.Context, _ <-chan struct{}, args []string) (string, error) {
			s.say("fails for good")
			return "", tokens.Permanent(errors.New(arg(args, "this account is gone")))
		},
		"panic": func(s *source, _ context.Context, _ <-chan struct{}, args []string) (string, error) {
			s.say("panics")
			panic(arg(args, "a bug in the program"))
		},
		"block": func(s *source, ctx context.Context, release <-chan struct{}, _ []string) (string, error) {
			select {
			case <-release:
				s.say("answers at last")
				return s.fresh()
			case <-ctx.Done():
				s.say("is told to stop")
				return "", ctx.Err()
			}
		},
		"ignore-context": func(s *source, _ context.Context, release <-chan struct{}, _ []string) (string, error) {
			<-release
			s.say("answers at last")
			return s.fresh()
		},
		"slow": func(s *source, ctx context.Context, _ <-chan struct{}, args []string) (string, error) {
			d, err := time.ParseDuration(arg(args, "1s"))
			if err != nil {
				return "", err
			}
			select {
			case <-time.After(d):
				return s.fresh()
			case <-ctx.Done():
				s.say("is told to stop")
				return "", ctx.Err()
			}
		},
		"same": func(s *source, _ context.Context, _ <-chan struct{}, _ []string) (string, error) {
			s.w.mu.Lock()
			last := s.w.sources.last[s.name]
			s.w.mu.Unlock()
			if last == "" {
				return s.fresh()
			}
			s.say("brings the same token")
			return last, nil
		},
		"calls-back": func(s *source, ctx context.Context, _ <-chan struct{}, args []string) (string, error) {
			if len(args) > 1 && args[1] == "background" {
				ctx = context.Background()
			}
			s.say("calls %s: %s", arg(args, "reconnect-socket"), s.call(ctx, arg(args, "reconnect-socket")))
			return s.fresh()
		},
	}
	for _, kind := range tokenKinds {
		kinds[kind] = func(s *source, _ context.Context, _ <-chan struct{}, args []string) (string, error) {
			ttl, err := time.ParseDuration(arg(args, "0s"))
			if err != nil {
				return "", err
			}
			if kind != "ok" {
				s.say("brings a token: %s", kind)
			}
			return s.w.token(kind, s.whom(), ttl)
		}
	}
}

// call is a call of the Conn from inside the source.
func (s *source) call(ctx context.Context, verb string) string {
	c := s.w.conn
	switch verb {
	case "connect":
		_, err := c.ConnectUser(ctx, chatconn.User{ID: s.whom()}, s)
		return result(err)
	case "switch":
		_, err := c.SwitchUser(ctx, chatconn.User{ID: s.whom()}, s)
		return result(err)
	case "reconnect-socket":
		_, err := c.ReconnectSocket(ctx)
		return result(err)
	case "disconnect-socket":
		return result(c.DisconnectSocket(ctx))
	case "disconnect":
		return result(c.Disconnect(ctx, chatconn.KeepPersistence))
	case "close":
		return result(c.Close())
	case "background":
		c.Background()
		return "done"
	case "state":
		return c.State().String()
	}
	return "no such call"
}

// tokenKinds are the tokens that a script can have.
var tokenKinds = []string{"ok", "expired", "from-the-future", "bad-signature", "other-user", "empty", "newline", "bearer", "two-segments", "dev"}

// token mints a token of a kind.
func (w *World) token(kind, user string, ttl time.Duration) (string, error) {
	good := w.server.Token(user, ttl)
	switch kind {
	case "ok":
		return good, nil
	case "expired":
		return w.server.Token(user, -time.Hour), nil
	case "from-the-future":
		w.mu.Lock()
		w.sources.early++ // tokens of one second would be the same
		ahead := time.Duration(w.sources.early) * time.Hour
		w.mu.Unlock()
		return tokens.Sign(w.server.Secret(), tokens.Claims{UserID: user, IssuedAt: time.Now().Add(ahead)})
	case "bad-signature":
		forged, err := tokens.Sign([]byte("a secret of another application"), tokens.Claims{UserID: user})
		return good[:strings.LastIndex(good, ".")] + forged[strings.LastIndex(forged, "."):], err
	case "other-user":
		return w.server.Token("not-"+user, ttl), nil
	case "empty":
		return "", nil
	case "newline":
		return good + "\n", nil
	case "bearer":
		return "Bearer " + good, nil
	case "two-segments":
		return good[:strings.LastIndex(good, ".")], nil
	case "dev":
		return tokens.DevToken(user), nil
	}
	return "", fmt.Errorf("there is no token %q", kind)
}
