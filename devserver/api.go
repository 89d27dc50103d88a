package devserver

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/chatconn/chatconn/tokens"
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
	mux.Handle("PATCH /app", s.api("UpdateApp", s.updateApp))
	mux.Handle("PATCH /users", s.api("UpdateUsersPartial", s.updateUsers))
	mux.Handle("POST /guest", s.api("CreateGuest", s.createGuest))
	mux.Handle("POST /sync", s.api("Sync", s.sync))
	mux.Handle("POST /channels/{type}/{id}", s.api("UpdateChannel", s.updateChannel))
	mux.Handle("POST /channels/{type}/{id}/query", s.api("GetOrCreateChannel", s.queryChannel))
	mux.Handle("POST /channels/{type}/{id}/message", s.api("SendMessage", s.sendMessage))
	mux.Handle("POST /channels/{type}/{id}/read", s.api("MarkRead", s.markRead))
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

	var message json.RawMessage
	refusal := s.inChannel(c, createMessage, func(ch *channel) (slow []*socket) {
		message, slow = s.postLocked(ch, author, id, in.Message)
		return slow
	})
	return http.StatusCreated, object{"message": message}, refusal
}

// inChannel does something under the lock in the channel that the path names,
// if the sender may.
func (s *Server) inChannel(c *call, do action, then func(*channel) (slow []*socket)) *APIError {
	cid := c.PathValue("type") + ":" + c.PathValue("id")
	s.mu.Lock()
	ch := s.channels[cid]
	if ch == nil {
		s.mu.Unlock()
		return refuse(16, "Can't find channel with id "+cid)
	}
	if refusal := s.mayLocked(c.who, do, ch.kind, ch); refusal != nil {
		s.mu.Unlock()
		return refusal
	}
	slow := then(ch)
	s.mu.Unlock()
	s.drop(slow)
	return nil
}

// markRead resets the sender's unread count and tells the channel.
func (s *Server) markRead(c *call) (int, object, *APIError) {
	refusal := s.inChannel(c, readChannel, func(ch *channel) []*socket {
		now := s.stampLocked()
		if m := ch.members[c.who.userID]; m != nil {
			m.unread, m.lastRead = 0, now
		}
		return s.tellLocked(ch, now, object{"type": "message.read", "user": s.publicLocked(s.userLocked(c.who.userID))})
	})
	return http.StatusCreated, object{"event": nil}, refusal
}

// updateChannel adds and removes members.
func (s *Server) updateChannel(c *call) (int, object, *APIError) {
	var in struct {
		Add    []json.RawMessage `json:"add_members"`
		Remove []string          `json:"remove_members"`
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	add, refusal := memberIDs(in.Add)
	if refusal != nil {
		return 0, nil, refusal
	}
	var state object
	refusal = s.inChannel(c, updateMembers, func(ch *channel) []*socket {
		for _, id := range add {
			s.joinLocked(ch, id)
		}
		for _, id := range in.Remove {
			ch.leave(id)
		}
		state = s.stateLocked(ch, 0)
		return nil
	})
	if refusal != nil {
		return 0, nil, refusal
	}
	return http.StatusCreated, object{"channel": state["channel"], "members": state["members"]}, nil
}

// createGuest makes a user for someone without an account: another id than the
// one asked for, and a token that never expires (T9).
func (s *Server) createGuest(c *call) (int, object, *APIError) {
	var in struct {
		User map[string]json.RawMessage `json:"user"`
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	var wanted string
	if json.Unmarshal(in.User["id"], &wanted) != nil || !validID(wanted) {
		return 0, nil, refuse(4, "user.id is missing or not valid")
	}
	id := "guest-" + newConnectionID() + "-" + wanted
	token, err := tokens.Sign(s.opts.Secret, tokens.Claims{UserID: id})
	if err != nil {
		return 0, nil, refuse(4, "user.id is not valid")
	}
	s.mu.Lock()
	u := s.userLocked(id)
	u.role = "guest"
	u.update(in.User, u.created)
	public := s.publicLocked(u)
	s.mu.Unlock()
	return http.StatusCreated, object{"user": public, "access_token": token}, nil
}

const (
	syncChannels = 255
	syncEvents   = 2_000
	syncAge      = 30 * 24 * time.Hour
)

// sync returns what was missed in some channels since a time, in order (P4).
func (s *Server) sync(c *call) (int, object, *APIError) {
	var in struct {
		CIDs  []string  `json:"channel_cids"`
		Since time.Time `json:"last_sync_at"`
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	switch {
	case len(in.CIDs) == 0 || len(in.CIDs) > syncChannels:
		return 0, nil, refuse(4, "channel_cids must hold 1 to 255 cids")
	case in.Since.IsZero() || time.Since(in.Since) > syncAge:
		return 0, nil, refuse(4, "last_sync_at is missing or older than 30 days")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var missed []pastEvent
	inaccessible := []string{}
	slices.Sort(in.CIDs)
	for _, cid := range slices.Compact(in.CIDs) {
		ch := s.channels[cid]
		if ch == nil || s.mayLocked(c.who, readChannel, ch.kind, ch) != nil {
			inaccessible = append(inaccessible, cid)
			continue
		}
		for _, e := range ch.events {
			if e.at.After(in.Since) {
				missed = append(missed, e)
			}
		}
	}
	if len(missed) > syncEvents {
		return 0, nil, refuse(4, "too many events to sync; query the channels instead")
	}
	slices.SortFunc(missed, func(a, b pastEvent) int { return a.at.Compare(b.at) })
	events := []json.RawMessage{}
	for _, e := range missed {
		events = append(events, e.data)
	}
	return http.StatusOK, object{"events": events, "inaccessible_cids": inaccessible}, nil
}

// forServers refuses everyone but an application's backend.
func (c *call) forServers() *APIError {
	if c.who.server {
		return nil
	}
	return refuse(17, "only a server token may do this")
}

// updateApp revokes everyone's tokens that were issued before a time; null
// undoes it.
func (s *Server) updateApp(c *call) (int, object, *APIError) {
	var in map[string]*time.Time
	if refusal := c.forServers(); refusal != nil {
		return 0, nil, refusal
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	if before, ok := in[revokeField]; ok {
		s.revoke("", deref(before))
	}
	return http.StatusOK, object{}, nil
}

// updateUsers sets and unsets fields of users; one of them revokes tokens.
func (s *Server) updateUsers(c *call) (int, object, *APIError) {
	var in struct {
		Users []struct {
			ID    string                     `json:"id"`
			Set   map[string]json.RawMessage `json:"set"`
			Unset []string                   `json:"unset"`
		} `json:"users"`
	}
	if refusal := c.forServers(); refusal != nil {
		return 0, nil, refusal
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	updated := object{}
	for _, change := range in.Users {
		if !validID(change.ID) {
			return 0, nil, refuse(4, "a user's id is missing or not valid")
		}
		if raw, ok := change.Set[revokeField]; ok {
			var before *time.Time
			if json.Unmarshal(raw, &before) != nil {
				return 0, nil, refuse(4, revokeField+" is not a time")
			}
			s.revoke(change.ID, deref(before))
			delete(change.Set, revokeField)
		}
		s.mu.Lock()
		u := s.userLocked(change.ID)
		u.update(change.Set, s.stampLocked())
		for _, field := range change.Unset {
			delete(u.custom, field)
		}
		updated[change.ID] = s.publicLocked(u)
		s.mu.Unlock()
	}
	return http.StatusOK, object{"users": updated}, nil
}

const revokeField = "revoke_tokens_issued_before"

func deref(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
