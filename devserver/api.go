package devserver

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
)

const maxBody = 1 << 20 // of an API request

// call is one API request whose sender is known.
type call struct {
	*http.Request
	who  identity
	body []byte
}

// bind decodes the body; an empty one is an empty object. Bodies are plain JSON
// whatever their Content-Encoding says (protocol 1.3).
func (c *call) bind(into any) *APIError {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, into); err != nil {
		return refuse(4, "the body is not the JSON that was expected")
	}
	return nil
}

// routes declares the API. A path that is not here is answered with 404.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /app", s.api("GetApp", s.getApp))
	mux.Handle("POST /channels/{type}/{id}/query", s.api("GetOrCreateChannel", s.queryChannel))
	mux.Handle("POST /channels/{type}/{id}/message", s.api("SendMessage", s.sendMessage))
	mux.Handle("/", s.api("Route", func(*call) (int, object, *APIError) {
		return 0, nil, refuse(16, "no such endpoint")
	}))
	return mux
}

// api makes an endpoint of a function that returns a status and an answer, or a
// refusal. Credentials are judged as for a socket; name is the service's name
// of the call, which its error messages carry.
func (s *Server) api(name string, serve func(*call) (int, object, *APIError)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		c := &call{Request: r}
		var refusal *APIError
		var err error
		if c.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
			if tooBig := (*http.MaxBytesError)(nil); !errors.As(err, &tooBig) {
				panic(http.ErrAbortHandler) // the client left
			}
			refusal = refuse(22, "the body is larger than 1 MiB")
		}
		who, denied := s.authenticate(r)
		if denied == nil {
			denied = who.allow(r.URL.Query().Get("user_id"))
		}
		if denied == nil && who.userID == "" && !who.server {
			denied = refuse(5, "user_id is missing")
		}
		c.who = who
		if refusal == nil {
			refusal = denied
		}
		seen := Entry{Kind: Request, Method: r.Method, Path: r.URL.Path, UserID: who.userID, Auth: who.auth,
			Token: who.fingerprint, Client: who.client, ConnectionID: r.URL.Query().Get("connection_id")}

		if fault, ok := s.failRequest(); ok {
			seen.Code, seen.Text = fault.Code, "fault"
			seen.Status = fault.write(w)
			s.journal.add(seen)
			return
		}
		var status int
		var answer object
		if refusal == nil {
			status, answer, refusal = serve(c)
		}
		duration := strconv.FormatFloat(float64(time.Since(began))/float64(time.Millisecond), 'f', 2, 64) + "ms"
		if refusal != nil {
			refusal = refusal.in(name)
			refusal.Duration = duration
			seen.Code, seen.Status, seen.Text = refusal.Code, refusal.StatusCode, refusal.Message
			s.journal.add(seen)
			writeJSON(w, refusal.StatusCode, refusal)
			return
		}
		seen.Status = status
		s.journal.add(seen)
		answer["duration"] = duration
		writeJSON(w, status, answer)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(encode(v))
}

// write sends the answer and returns its status.
func (a Answer) write(w http.ResponseWriter) int {
	if a.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(a.RetryAfter.Seconds()))))
	}
	status := a.Status
	if a.Code != 0 && a.Body == "" {
		e := APIError{Code: a.Code, Message: a.Message, StatusCode: status}.completed()
		writeJSON(w, e.StatusCode, e)
		return e.StatusCode
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if a.ContentType == "" {
		a.ContentType = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", a.ContentType)
	w.WriteHeader(status)
	io.WriteString(w, a.Body)
	return status
}

func (s *Server) getApp(c *call) (int, object, *APIError) {
	return http.StatusOK, object{"app": object{"name": "chatconn dev server", "disable_auth_checks": s.opts.DisableAuthChecks}}, nil
}

func (s *Server) queryChannel(c *call) (int, object, *APIError) {
	var in struct {
		Data struct {
			Members []json.RawMessage `json:"members"`
		} `json:"data"`
		Watch    bool `json:"watch"`
		Messages struct {
			Limit int `json:"limit"`
		} `json:"messages"`
	}
	var custom struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	c.bind(&custom)
	members, refusal := memberIDs(in.Data.Members)
	if refusal != nil {
		return 0, nil, refusal
	}
	for _, key := range []string{"members", "id", "type", "cid", "created_by", "created_at", "updated_at"} {
		delete(custom.Data, key)
	}
	kind, id := c.PathValue("type"), c.PathValue("id")
	if !validID(kind) || !validID(id) {
		return 0, nil, refuse(4, "the channel's type or id is not valid")
	}
	limit := 25
	if in.Messages.Limit > 0 {
		limit = min(in.Messages.Limit, pageLimit)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	status := http.StatusOK
	ch := s.channels[kind+":"+id]
	if ch == nil {
		if refusal := s.mayLocked(c.who, createChannel, kind, nil); refusal != nil {
			return 0, nil, refusal
		}
		status = http.StatusCreated
		ch = s.createLocked(kind, id, c.who.userID, custom.Data)
		if len(members) == 0 {
			members = []string{c.who.userID}
		}
		for _, id := range members {
			s.joinLocked(ch, id)
		}
	} else if refusal := s.mayLocked(c.who, readChannel, kind, ch); refusal != nil {
		return 0, nil, refusal
	}
	if in.Watch {
		so := s.socketLocked(c.who.userID, c.URL.Query().Get("connection_id"))
		if so == nil {
			return 0, nil, refuse(4, "watch or presence requires an active websocket connection, please make sure to include your websocket connection_id")
		}
		ch.watchers[so] = struct{}{}
	}
	return status, s.stateLocked(ch, limit), nil
}

// memberIDs reads members in both forms that clients send: "id" and {"user_id":"id"}.
func memberIDs(members []json.RawMessage) ([]string, *APIError) {
	var ids []string
	for _, raw := range members {
		var id string
		var member struct {
			UserID string `json:"user_id"`
		}
		if json.Unmarshal(raw, &id) != nil {
			if json.Unmarshal(raw, &member) != nil {
				return nil, refuse(4, "a member is neither an id nor an object")
			}
			id = member.UserID
		}
		if !validID(id) {
			return nil, refuse(4, "a member's id is missing or not valid")
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// socketLocked finds an open socket of a user by its connection id.
func (s *Server) socketLocked(userID, connectionID string) *socket {
	for so := range s.online[userID] {
		if so.id == connectionID {
			return so
		}
	}
	return nil
}

func (s *Server) sendMessage(c *call) (int, object, *APIError) {
	var in struct {
		Message map[string]json.RawMessage `json:"message"`
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	var id, body, author string
	json.Unmarshal(in.Message["id"], &id) // one that is no string counts as absent
	json.Unmarshal(in.Message["text"], &body)
	json.Unmarshal(in.Message["user_id"], &author)
	switch {
	case in.Message == nil:
		return 0, nil, refuse(4, "message is missing")
	case len(body) > textLimit:
		return 0, nil, APIError{Code: 20, Message: "the message's text is too long"}.completed()
	case id == "":
		id = newConnectionID()
	case !validID(id):
		return 0, nil, refuse(4, "the message's id is not valid")
	}
	if !c.who.server {
		author = c.who.userID
	}
	if author == "" {
		return 0, nil, refuse(4, "the message has no user")
	}

	s.mu.Lock()
	ch := s.channels[c.PathValue("type")+":"+c.PathValue("id")]
	refusal := refuse(16, "Can't find channel with id "+c.PathValue("type")+":"+c.PathValue("id"))
	var message json.RawMessage
	var slow []*socket
	if ch != nil {
		if refusal = s.mayLocked(c.who, createMessage, ch.kind, ch); refusal == nil {
			message, slow = s.postLocked(ch, author, id, in.Message)
		}
	}
	s.mu.Unlock()
	s.drop(slow)
	if refusal != nil {
		return 0, nil, refusal
	}
	return http.StatusCreated, object{"message": message}, nil
}
