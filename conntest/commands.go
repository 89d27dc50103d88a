package conntest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// Commands lists the commands of scripts and their arguments, one a line.
func Commands() string {
	var all []string
	for name, c := range commands {
		all = append(all, strings.TrimSpace(name+" "+c.usage))
	}
	slices.Sort(all)
	return "config FIELD=VALUE…\n" + strings.Join(all, "\n")
}

// commands are what a script can say. Calls that wait are made in the background
// and print their result when it comes; calls that leave are waited for.
var commands map[string]struct {
	usage string
	do    func(w *World, args ...string) error
}

func init() {
	type entry = struct {
		usage string
		do    func(w *World, args ...string) error
	}
	plain := func(f func(w *World)) entry {
		return entry{"", func(w *World, args ...string) error { f(w); return nil }}
	}
	commands = map[string]entry{
		"connect": {"USER [source=NAME] [static[=TOKEN]] [name=…] [image=…] [FIELD=…] [timeout=D]", func(w *World, args ...string) error {
			return w.connect("connect", args, w.conn.ConnectUser)
		}},
		"switch": {"USER … as connect", func(w *World, args ...string) error {
			return w.connect("switch", args, w.conn.SwitchUser)
		}},
		"reconnect-socket": {"[timeout=D]", func(w *World, args ...string) error {
			return w.session("reconnect-socket", args, w.conn.ReconnectSocket)
		}},
		"disconnect-socket": {"[timeout=D]", func(w *World, args ...string) error {
			return w.leave("disconnect-socket", args, w.conn.DisconnectSocket)
		}},
		"disconnect": {"[flush] [timeout=D]", func(w *World, args ...string) error {
			data := chatconn.KeepPersistence
			if len(args) > 0 && args[0] == "flush" {
				data, args = chatconn.FlushPersistence, args[1:]
			}
			return w.leave("disconnect", args, func(ctx context.Context) error { return w.conn.Disconnect(ctx, data) })
		}},
		"close": {"", func(w *World, args ...string) error {
			return w.leave("close", args, func(context.Context) error { return w.conn.Close() })
		}},
		"cancel": {"CALL", func(w *World, args ...string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			name := strings.Join(args, " ")
			for _, c := range w.calls {
				if c.name == name && !c.done {
					c.cancel()
					return nil
				}
			}
			return fmt.Errorf("no call %q waits", name)
		}},
		"background": plain(func(w *World) { w.conn.Background() }),
		"foreground": plain(func(w *World) { w.conn.Foreground() }),
		"woke":       plain(func(w *World) { w.conn.Woke() }),
		"network": {"lost|available", func(w *World, args ...string) error {
			return choose(args, map[string]func(){"lost": w.conn.NetworkLost, "available": w.conn.NetworkAvailable})
		}},
		"wait": {"D", func(w *World, args ...string) error {
			d, err := time.ParseDuration(arg(args, ""))
			if err == nil {
				time.Sleep(d)
			}
			return err
		}},
		"until": {"STATE | attempt N", (*World).until},
		"source": {"[NAME] ok|fail|permanent|panic|block|ignore-context|slow|same|calls-back|TOKEN … [times=N]", func(w *World, args ...string) error {
			if len(args) == 0 {
				return errors.New("how?")
			}
			return w.behave(args)
		}},
		"dial": {"ok|block|hold", func(w *World, args ...string) error {
			way := func(way string) func() {
				return func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.way = way
				}
			}
			return choose(args, map[string]func(){"ok": way(""), "block": way("block"), "hold": way("hold")})
		}},
		"release": plain(func(w *World) {
			w.mu.Lock()
			defer w.mu.Unlock()
			close(w.release)
			w.release = make(chan struct{})
		}),
		"request": {"METHOD PATH [body=…] [stream] [hold] [timeout=D]", (*World).request},
		"message": {"CID from USER TEXT", func(w *World, args ...string) error {
			if len(args) != 4 || args[1] != "from" {
				return errors.New("CID from USER TEXT")
			}
			return w.server.Send(args[0], args[2], args[3])
		}},
		"member": {"CID USER", func(w *World, args ...string) error {
			if len(args) != 2 {
				return errors.New("CID USER")
			}
			return w.server.AddMember(args[0], args[1])
		}},
		"events": {"[held] [TYPE…] | take", (*World).events},
		"watch": plain(func(w *World) {
			changes := w.conn.Watch(w.ctx)
			w.watchers++
			name := fmt.Sprint("watcher ", w.watchers)
			go func() {
				for c := range changes {
					w.add(line{rank: delivered, key: name, text: name + ": " + observe(c)})
				}
				w.add(line{rank: delivered, key: name, text: name + ": closed"})
			}()
		}),
		"state": plain(func(w *World) {
			w.Print("%v, for an app with three states %v", w.conn.State(), w.conn.State().Simple())
		}),
		"user": plain(func(w *World) {
			user, ok := w.conn.CurrentUser()
			if !ok {
				w.Print("none")
				return
			}
			w.Print("%s", person(user))
		}),
		"session": plain(func(w *World) {
			session, ok := w.conn.Session()
			if !ok {
				w.Print("none")
				return
			}
			w.Print("%s of %s", session.ConnectionID, person(session.User))
		}),
		"stats":  {"[FIELD…]", (*World).stats},
		"seen":   {"[clear]", (*World).seen},
		"server": {faults, (*World).fault},
		"wire": {"latency D | black-hole on|off | reset", func(w *World, args ...string) error {
			switch arg(args, "") {
			case "latency":
				d, err := time.ParseDuration(arg(args[1:], ""))
				w.network.SetLatency(d)
				return err
			case "black-hole":
				return toggle(args[1:], w.network.BlackHole)
			case "reset":
				w.network.Reset()
				return nil
			}
			return errors.New("latency, black-hole or reset?")
		}},
	}
}

// faults are the arguments of the command server; an N that is negative means all.
const faults = `refuse|silence|no-answer|stop-health|bare-errors|compress on|off
server stop|start|restart|drop-all|heal
server drop-after N
server slow D
server close CODE
server kick CODE [user=ID] [status=N] [unrecoverable]
server error-frame CODE [user=ID] [status=N] [unrecoverable]
server fail-handshakes N CODE [status=N] [unrecoverable]
server fail-upgrades N STATUS [code=N] [body=…] [retry-after=D]
server fail-requests N STATUS [code=N] [body=…] [retry-after=D]
server expire-tokens|revoke [user=ID]
server oversize BYTES [user=ID]
server garbage TEXT [user=ID]`

func choose(args []string, all map[string]func()) error {
	f := all[arg(args, "")]
	if f == nil {
		return errors.New("which?")
	}
	f()
	return nil
}

func toggle(args []string, set func(bool)) error {
	return choose(args, map[string]func(){"on": func() { set(true) }, "off": func() { set(false) }})
}

// option takes NAME=VALUE, or NAME alone, out of the arguments.
func option(args *[]string, name string) (value string, ok bool) {
	for i, a := range *args {
		key, v, _ := strings.Cut(a, "=")
		if key == name {
			*args = slices.Delete(slices.Clone(*args), i, i+1)
			return v, true
		}
	}
	return "", false
}

func timeout(args *[]string) (time.Duration, error) {
	value, ok := option(args, "timeout")
	if !ok {
		return 0, nil
	}
	return time.ParseDuration(value)
}

func (w *World) connect(verb string, args []string, do func(context.Context, chatconn.User, tokens.Source) (chatconn.Session, error)) error {
	limit, err := timeout(&args)
	if err != nil || len(args) == 0 {
		return errors.Join(err, errors.New("whom?"))
	}
	user := chatconn.User{ID: args[0]}
	args = args[1:]
	var source tokens.Source
	if kind, ok := option(&args, "static"); ok {
		token, err := w.token(arg([]string{kind}[:min(1, len(kind))], "ok"), user.ID, 0)
		if err != nil {
			return err
		}
		source, w.waits.static = tokens.Static(token), true
	} else {
		name, ok := option(&args, "source")
		if !ok {
			name = user.ID
		}
		source, w.waits.static = w.source(name, user.ID), false
	}
	for _, a := range args {
		switch key, value, ok := strings.Cut(a, "="); {
		case !ok:
			return fmt.Errorf("what is %q?", a)
		case key == "name":
			user.Name = value
		case key == "image":
			user.Image = value
		default:
			if user.Extra == nil {
				user.Extra = map[string]any{}
			}
			user.Extra[key] = value
		}
	}
	w.call(verb+" "+user.ID, limit, func(ctx context.Context) string {
		session, err := do(ctx, user, source)
		return connected(session, err)
	})
	return nil
}

func (w *World) session(name string, args []string, do func(context.Context) (chatconn.Session, error)) error {
	limit, err := timeout(&args)
	if err != nil {
		return err
	}
	w.call(name, limit, func(ctx context.Context) string {
		session, err := do(ctx)
		return connected(session, err)
	})
	return nil
}

// leave makes a call and waits for its end, which comes within CloseTimeout.
func (w *World) leave(name string, args []string, do func(context.Context) error) error {
	limit, err := timeout(&args)
	if err != nil {
		return err
	}
	ctx := w.ctx
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err = do(ctx)
	w.add(line{rank: returned, key: name, text: name + ": " + result(err)})
	return nil
}

func connected(s chatconn.Session, err error) string {
	if err != nil {
		return describe(err)
	}
	return fmt.Sprintf("connected, session %s of %s", s.ConnectionID, person(s.User))
}

func person(u chatconn.User) string {
	text := u.ID
	if u.Name != "" {
		text += fmt.Sprintf(" %q", u.Name)
	}
	return text
}

func result(err error) string {
	if err == nil {
		return "done"
	}
	return describe(err)
}

// known are the errors that programs compare with, by name.
var known = []struct {
	err  error
	name string
}{
	{chatconn.ErrClosed, "ErrClosed"}, {chatconn.ErrNoUser, "ErrNoUser"}, {chatconn.ErrUserAlreadySet, "ErrUserAlreadySet"},
	{chatconn.ErrTokenUserMismatch, "ErrTokenUserMismatch"}, {chatconn.ErrTokenExpired, "ErrTokenExpired"}, {chatconn.ErrTokenInvalid, "ErrTokenInvalid"},
	{chatconn.ErrTokenTimeout, "ErrTokenTimeout"}, {chatconn.ErrDisconnected, "ErrDisconnected"}, {chatconn.ErrReentrant, "ErrReentrant"},
	{chatconn.ErrRetriesSpent, "ErrRetriesSpent"}, {chatconn.ErrTooManyRequests, "ErrTooManyRequests"}, {chatconn.ErrRequestTimeout, "ErrRequestTimeout"},
	{chatconn.ErrInsecure, "ErrInsecure"}, {tokens.ErrRefusedAgain, "ErrRefusedAgain"},
	{context.Canceled, "context canceled"}, {context.DeadlineExceeded, "context deadline exceeded"},
}

// describe names all that an error is for errors.Is and errors.As. Texts that a
// server or a source chose are left out but for those of sources.
func describe(err error) string {
	var parts []string
	for _, k := range known {
		if k.err == context.DeadlineExceeded && errors.Is(err, tokens.ErrTimeout) {
			continue // the source may have seen its deadline, or not yet
		}
		if errors.Is(err, k.err) {
			parts = append(parts, k.name)
		}
	}
	var api *chatconn.APIError
	var failure *transport.Error
	var invalid *chatconn.InvalidError
	switch {
	case errors.As(err, &api):
		text := fmt.Sprintf("APIError %d, status %d", api.Code, api.StatusCode)
		if api.Unrecoverable {
			text += ", unrecoverable"
		}
		parts = append(parts, text)
	case errors.As(err, &failure):
		parts = append(parts, "transport: "+failure.Phase+": "+failure.Kind.String())
		if failure.Status != 0 {
			parts = append(parts, fmt.Sprintf("HTTP %d", failure.Status))
		}
		if failure.CloseCode != 0 {
			parts = append(parts, fmt.Sprintf("close code %d", failure.CloseCode))
		}
	case errors.As(err, &invalid):
		parts = append(parts, invalid.Field+" "+invalid.Reason)
	}
	if parts == nil {
		return err.Error()
	}
	return strings.Join(parts, "; ")
}

// request sends an API request through the Conn's client.
func (w *World) request(args ...string) error {
	limit, err := timeout(&args)
	if err != nil {
		return err
	}
	text, _ := option(&args, "body")
	_, stream := option(&args, "stream")
	_, hold := option(&args, "hold")
	w.mu.Lock()
	release := w.release
	w.mu.Unlock()
	if len(args) != 2 {
		return errors.New("METHOD PATH")
	}
	name := "request " + args[0] + " " + args[1]
	w.call(name, limit, func(ctx context.Context) string {
		var body io.Reader = strings.NewReader(text)
		if stream {
			body = io.MultiReader(body) // one that net/http does not know how to rewind
		}
		req, err := http.NewRequestWithContext(ctx, args[0], w.server.URL()+args[1], body)
		if err != nil {
			return err.Error()
		}
		if hold {
			// Under way, and not answered before release: the body is missing.
			req.Body, req.ContentLength = io.NopCloser(&held{release, strings.NewReader(text)}), -1
		}
		resp, err := w.conn.HTTPClient().Do(req)
		if err != nil {
			return describe(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return describe(err)
		}
		var refusal struct{ Code int }
		_ = json.Unmarshal(data, &refusal) // an answer without a code is none
		return codes(refusal.Code, resp.StatusCode)
	})
	return nil
}

// held is a body that comes when the script says release.
type held struct {
	release <-chan struct{}
	rest    io.Reader
}

func (h *held) Read(p []byte) (int, error) {
	<-h.release
	return h.rest.Read(p)
}

// reader is one that reads events only when it is told to.
type reader struct{ ch <-chan chatconn.Event }

// events begins to read chat events, or takes what waits for those that are held.
func (w *World) events(args ...string) error {
	print := func(e chatconn.Event) {
		text := "event " + e.Type
		if e.CID != "" {
			text += " in " + e.CID
		}
		if e.UserID != "" {
			text += " from " + e.UserID
		}
		var message struct{ Message struct{ Text string } }
		if json.Unmarshal(e.Raw, &message) == nil && message.Message.Text != "" {
			text += fmt.Sprintf(" %q", message.Message.Text)
		}
		if e.Missed > 0 {
			text += fmt.Sprintf(" (%d missed)", e.Missed)
		}
		w.add(line{rank: delivered, key: "events", text: text})
	}
	if arg(args, "") == "take" {
		for _, r := range w.readers {
			for {
				select {
				case e, ok := <-r.ch:
					if ok {
						print(e)
						continue
					}
				default:
				}
				break
			}
		}
		return nil
	}
	if _, held := option(&args, "held"); held {
		w.readers = append(w.readers, &reader{w.conn.Events(w.ctx, args...)})
		return nil
	}
	all := w.conn.Events(w.ctx, args...)
	go func() {
		for e := range all {
			print(e)
		}
	}()
	return nil
}

// until waits for a state, or for the Nth attempt to be due, for at most 10
// minutes.
func (w *World) until(args ...string) error {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Minute)
	defer cancel()
	if arg(args, "") == "attempt" {
		n, err := strconv.Atoi(arg(args[1:], ""))
		if err != nil {
			return err
		}
		for change := range w.conn.Watch(ctx) {
			if change.Attempt >= n {
				return nil
			}
		}
		w.Print("not within 10m")
		return nil
	}
	i := slices.IndexFunc(fsm.States(), func(s fsm.State) bool { return s.String() == arg(args, "") })
	if i < 0 {
		return errors.New("which state?")
	}
	if _, err := w.conn.Wait(ctx, fsm.States()[i]); err != nil {
		w.Print("not within 10m: %s", describe(err))
	}
	return nil
}

// stats prints counters of the Conn.
func (w *World) stats(fields ...string) error {
	stats := w.conn.Stats()
	if len(fields) == 0 {
		fields = []string{"State", "Attempts", "Reconnects", "Loads", "Replays", "LateDrops", "MissedEvents", "Waiting"}
	}
	var parts []string
	for _, name := range fields {
		field := reflect.ValueOf(stats).FieldByName(name)
		if !field.IsValid() {
			return fmt.Errorf("no field %s in Stats", name)
		}
		text := fmt.Sprint(field)
		if name == "LastError" {
			text = result(stats.LastError)
		}
		parts = append(parts, name+" "+text)
	}
	w.Print("%s", strings.Join(parts, ", "))
	return nil
}

// seen prints what the server saw since the last time, repeated lines once, and
// how many sockets are open; or forgets it.
func (w *World) seen(args ...string) error {
	if arg(args, "") == "clear" {
		w.saw = nil
		return nil
	}
	for i := 0; i < len(w.saw); {
		n := 1
		for i+n < len(w.saw) && w.saw[i+n] == w.saw[i] {
			n++
		}
		if n == 1 {
			w.Print("%s", w.saw[i])
		} else {
			w.Print("%s (%d times)", w.saw[i], n)
		}
		i += n
	}
	w.saw = nil
	w.Print("%d open now", w.server.Connections(""))
	return nil
}

// fault makes the server misbehave.
func (w *World) fault(args ...string) error {
	s := w.server
	name, args := arg(args, ""), args[min(1, len(args)):]
	number := func(i int) int {
		if i < len(args) {
			n, err := strconv.Atoi(args[i])
			if err == nil {
				return n
			}
		}
		return 0
	}
	after, _ := option(&args, "retry-after")
	code, _ := option(&args, "code")
	body, _ := option(&args, "body")
	user, _ := option(&args, "user")
	status, _ := option(&args, "status")
	_, final := option(&args, "unrecoverable")
	answer := devserver.Answer{Status: number(1), Body: body}
	answer.Code, _ = strconv.Atoi(code)
	if after != "" {
		var err error
		if answer.RetryAfter, err = time.ParseDuration(after); err != nil {
			return err
		}
	}
	refusal := func(i int) devserver.APIError {
		e := devserver.APIError{Code: number(i), Unrecoverable: final}
		e.StatusCode, _ = strconv.Atoi(status)
		return e
	}
	switch name {
	case "refuse":
		return toggle(args, s.RefuseConnections)
	case "silence":
		return toggle(args, s.Silence)
	case "no-answer":
		return toggle(args, s.SilenceHTTP)
	case "stop-health":
		return toggle(args, s.StopHealth)
	case "bare-errors":
		return toggle(args, s.BareErrors)
	case "compress":
		return toggle(args, s.Compress)
	case "drop-all":
		s.DropAll()
	case "drop-after":
		s.DropAfter(number(0))
	case "close":
		s.CloseAll(number(0), "")
	case "kick": // the error frame, then close 1000
		w.kicked = true
		s.Kick(user, refusal(0))
	case "error-frame": // alone
		w.kicked = true
		e := refusal(0)
		if e.StatusCode == 0 {
			e.StatusCode = 400
		}
		_, err := s.Emit(user, map[string]any{"error": e})
		return err
	case "fail-handshakes":
		s.FailHandshakes(number(0), refusal(1))
	case "fail-upgrades":
		w.waits.retryAfter = answer.RetryAfter
		s.FailUpgrades(number(0), answer)
	case "fail-requests":
		s.FailRequests(number(0), answer)
	case "expire-tokens":
		s.ExpireTokens(user, false)
	case "revoke":
		s.RevokeTokens(user, time.Now().Add(time.Second))
	case "oversize":
		s.Oversize(user, number(0))
	case "garbage":
		s.Garbage(user, []byte(arg(args, "{")), false)
	case "slow":
		d, err := time.ParseDuration(arg(args, ""))
		s.Slow(d)
		return err
	case "heal":
		w.waits.retryAfter = 0
		s.Heal()
	case "stop":
		s.Stop()
	case "start":
		return s.Restart()
	case "restart":
		s.Stop()
		return s.Restart()
	default:
		return fmt.Errorf("the server has no fault %q", name)
	}
	return nil
}
