package devserver

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// FaultCommand is a fault as an HTTP endpoint: POST /_fault/{Name} with the
// parameters in the query or in a JSON body. A GET of /_fault/ lists them all,
// one of /_fault/log gives the record. They answer to this machine only.
type FaultCommand struct {
	Name   string   `json:"name"`
	Params []string `json:"params"`
	Doc    string   `json:"doc"`

	run   func(s *Server, a *faultArgs)
	after bool // the answer goes out first, since the fault cuts its connection
}

// Faults lists the fault commands in the order in which documentation shows them.
func Faults() []FaultCommand { return slices.Clone(faultCommands) }

// faultArgs are the parameters of all commands; each takes those that it lists.
type faultArgs struct {
	On            bool      `json:"on"` // true unless given
	N             int       `json:"n"`  // 1 unless given
	Code          int       `json:"code"`
	Status        int       `json:"status"`
	Message       string    `json:"message"`
	Unrecoverable bool      `json:"unrecoverable"`
	Reason        string    `json:"reason"`
	Body          string    `json:"body"`
	ContentType   string    `json:"content_type"`
	RetryAfter    period    `json:"retry_after"`
	Delay         period    `json:"delay"`
	For           period    `json:"for"`
	User          string    `json:"user"`
	Kick          bool      `json:"kick"`
	Before        time.Time `json:"before"`
	Text          string    `json:"text"`
	Base64        []byte    `json:"base64"`
	Binary        bool      `json:"binary"`
	Bytes         int       `json:"bytes"`

	keep net.Conn // of the command itself
}

func (a *faultArgs) refusal() APIError {
	return APIError{Code: a.Code, Message: a.Message, StatusCode: a.Status, Unrecoverable: a.Unrecoverable}
}

func (a *faultArgs) answer() Answer {
	return Answer{Status: a.Status, Code: a.Code, Message: a.Message, Body: a.Body, ContentType: a.ContentType, RetryAfter: time.Duration(a.RetryAfter)}
}

// faultCommands is every fault but Stop, which HTTP could not undo.
var faultCommands = []FaultCommand{
	{Name: "refuse", Params: []string{"for"}, Doc: "reset every connection at the door, for a while (default 5s)",
		after: true,
		run: func(s *Server, a *faultArgs) {
			s.RefuseConnections(true)
			s.wait(cmp.Or(time.Duration(a.For), 5*time.Second))
			s.RefuseConnections(false)
		}},
	{Name: "restart", Params: []string{"for"}, Doc: "stop listening and cut everyone, then listen again after a while (default 0s)",
		after: true,
		run: func(s *Server, a *faultArgs) {
			s.stop(a.keep)
			s.wait(time.Duration(a.For))
			if err := s.Restart(); err != nil && err != ErrClosed {
				s.order("restart", "failed: %v", err)
			}
		}},
	{Name: "silence", Params: []string{"on"}, Doc: "upgrade, but send nothing on any socket",
		run: func(s *Server, a *faultArgs) { s.Silence(a.On) }},
	{Name: "silence-http", Params: []string{"on"}, Doc: "take requests and upgrades, but never answer",
		run: func(s *Server, a *faultArgs) { s.SilenceHTTP(a.On) }},
	{Name: "stop-health", Params: []string{"on"}, Doc: "answer no health check and no ping; events go on",
		run: func(s *Server, a *faultArgs) { s.StopHealth(a.On) }},
	{Name: "slow", Params: []string{"delay"}, Doc: "delay every answer and every message; 0 ends it",
		run: func(s *Server, a *faultArgs) { s.Slow(time.Duration(a.Delay)) }},
	{Name: "close-all", Params: []string{"code", "reason"}, Doc: "close every open socket with a code (default 1000)",
		run: func(s *Server, a *faultArgs) { s.CloseAll(a.Code, a.Reason) }},
	{Name: "kick", Params: []string{"user", "code", "status", "message", "unrecoverable"}, Doc: "send an error frame on the open sockets of a user (default everyone), then close them with 1000",
		run: func(s *Server, a *faultArgs) { s.Kick(a.User, a.refusal()) }},
	{Name: "drop-all", Doc: "reset every connection without a word",
		run: func(s *Server, a *faultArgs) { s.dropAll(a.keep) }},
	{Name: "drop-after", Params: []string{"n"}, Doc: "reset every socket after n more messages; 0 ends it",
		run: func(s *Server, a *faultArgs) { s.DropAfter(a.N) }},
	{Name: "fail-handshakes", Params: []string{"n", "code", "status", "message", "unrecoverable"}, Doc: "refuse the next n logins with an error; a negative n means all, 0 none",
		run: func(s *Server, a *faultArgs) { s.FailHandshakes(a.N, a.refusal()) }},
	{Name: "fail-upgrades", Params: []string{"n", "status", "code", "message", "body", "content_type", "retry_after"}, Doc: "give the next n upgrades an HTTP answer; a negative n means all, 0 none",
		run: func(s *Server, a *faultArgs) { s.FailUpgrades(a.N, a.answer()) }},
	{Name: "fail-requests", Params: []string{"n", "status", "code", "message", "body", "content_type", "retry_after"}, Doc: "give the next n API requests another answer; a negative n means all, 0 none",
		run: func(s *Server, a *faultArgs) { s.FailRequests(a.N, a.answer()) }},
	{Name: "expire-tokens", Params: []string{"user", "kick"}, Doc: "tokens issued before now answer 40, of a user (default everyone); with kick open sockets are closed",
		run: func(s *Server, a *faultArgs) { s.ExpireTokens(a.User, a.Kick) }},
	{Name: "revoke-tokens", Params: []string{"user", "before"}, Doc: "tokens with an iat before a time (RFC 3339) answer 40; without a time it is undone",
		run: func(s *Server, a *faultArgs) { s.RevokeTokens(a.User, a.Before) }},
	{Name: "garbage", Params: []string{"user", "text", "base64", "binary"}, Doc: "send bytes as one message, as text or binary",
		run: func(s *Server, a *faultArgs) { s.Garbage(a.User, append([]byte(a.Text), a.Base64...), a.Binary) }},
	{Name: "oversize", Params: []string{"user", "bytes"}, Doc: "send a well-formed event of so many bytes",
		run: func(s *Server, a *faultArgs) { s.Oversize(a.User, a.Bytes) }},
	{Name: "compress", Params: []string{"on"}, Doc: "new sockets are compressed although nobody offered it",
		run: func(s *Server, a *faultArgs) { s.Compress(a.On) }},
	{Name: "bare-errors", Params: []string{"on"}, Doc: `error frames are {"error":{…}} alone`,
		run: func(s *Server, a *faultArgs) { s.BareErrors(a.On) }},
	{Name: "heal", Doc: "end every fault that stands",
		run: func(s *Server, a *faultArgs) { s.Heal() }},
}

// wait sleeps unless the server is closed.
func (s *Server) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
	}
}

// serveFault serves /_fault/. Faults do not touch it, but for a closed door.
func (s *Server) serveFault(w http.ResponseWriter, r *http.Request) {
	if !local(r) {
		http.Error(w, "faults are ordered from this machine only", http.StatusForbidden)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/_fault/")
	switch {
	case r.Method == http.MethodGet && name == "":
		writeJSON(w, http.StatusOK, object{"faults": s.commands})
		return
	case r.Method == http.MethodGet && name == "log":
		writeJSON(w, http.StatusOK, object{"log": s.Log()})
		return
	case r.Method != http.MethodPost:
		http.Error(w, "faults are ordered with POST", http.StatusMethodNotAllowed)
		return
	}
	i := slices.IndexFunc(s.commands, func(f FaultCommand) bool { return f.Name == name })
	if i < 0 {
		http.Error(w, "no such fault; GET /_fault/ lists them", http.StatusNotFound)
		return
	}
	f := s.commands[i]
	a, err := parseFault(f, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.keep, _ = r.Context().Value(connKey{}).(net.Conn)
	if !f.after {
		f.run(s, a)
		writeJSON(w, http.StatusOK, object{"fault": f.Name})
		return
	}
	w.Header().Set("Connection", "close")
	writeJSON(w, http.StatusOK, object{"fault": f.Name})
	http.NewResponseController(w).Flush() // an error means that the client left, which changes nothing
	s.work.Go(func() { f.run(s, a) })
}

// local reports whether a request comes from this machine, and not through a
// proxy or a web page of elsewhere. In-memory connections are local.
func local(r *http.Request) bool {
	addr, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if _, tcp := addr.(*net.TCPAddr); addr != nil && !tcp {
		return true
	}
	loopback := func(hostport string) bool {
		host, _, err := net.SplitHostPort(hostport)
		if err != nil {
			host = hostport
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		return host == "localhost" || ip != nil && ip.IsLoopback()
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return false
		}
	}
	forwarded := r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != ""
	return !forwarded && loopback(r.RemoteAddr) && loopback(r.Host)
}

// parseFault reads a command's parameters from the query and the body.
func parseFault(f FaultCommand, r *http.Request) (*faultArgs, error) {
	given := make(map[string]json.RawMessage)
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, &given); err != nil {
			return nil, fmt.Errorf("the body is not a JSON object: %w", err)
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("the query is not valid: %w", err)
	}
	for key, values := range query {
		given[key] = json.RawMessage(values[0])
	}
	a := &faultArgs{On: true, N: 1}
	for key, value := range given {
		if !slices.Contains(f.Params, key) {
			return nil, fmt.Errorf("%s has no parameter %q, only %q", f.Name, key, f.Params)
		}
		// A query value is JSON where it fits the field, else a string.
		plain := encode(object{key: string(value)})
		if literal, err := json.Marshal(object{key: value}); err == nil && json.Unmarshal(literal, a) == nil {
			continue
		}
		if err := json.Unmarshal(plain, a); err != nil {
			return nil, fmt.Errorf("parameter %q: %w", key, err)
		}
	}
	return a, nil
}

// period is a duration as a program or a person writes it: seconds, or "1.5s".
type period time.Duration

func (p *period) UnmarshalJSON(data []byte) error {
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		*p = period(seconds * float64(time.Second))
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	*p = period(d)
	return err
}
