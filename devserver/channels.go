package devserver

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	historyLimit = 10_000 // messages and events kept of a channel; older ones go
	pageLimit    = 300    // messages of one query
	textLimit    = 20_000 // bytes of a message's text
)

// channel is a conversation, named by its cid "type:id".
type channel struct {
	kind, id         string
	createdBy        string
	created, updated time.Time
	custom           map[string]json.RawMessage
	members          map[string]*member
	order            []string                   // member ids in the order in which they came
	watchers         map[*socket]struct{}       // get its events without being members
	messages         []string                   // ids, oldest first
	sent             map[string]json.RawMessage // the messages by id, so that repeats are dropped (P1)
	events           []pastEvent                // for /sync
}

type member struct {
	joined   time.Time
	lastRead time.Time
	unread   int
}

type pastEvent struct {
	at   time.Time
	data json.RawMessage
}

func (ch *channel) cid() string { return ch.kind + ":" + ch.id }

// splitCID parses "type:id".
func splitCID(cid string) (kind, id string, err error) {
	kind, id, ok := strings.Cut(cid, ":")
	if !ok || kind == "" || id == "" {
		return "", "", fmt.Errorf("devserver: %q is not a cid, type:id", cid)
	}
	return kind, id, nil
}

// createLocked returns a new channel.
func (s *Server) createLocked(kind, id, by string, custom map[string]json.RawMessage) *channel {
	now := s.stampLocked()
	ch := &channel{
		kind: kind, id: id, createdBy: by, created: now, updated: now, custom: custom,
		members: make(map[string]*member), watchers: make(map[*socket]struct{}), sent: make(map[string]json.RawMessage),
	}
	s.channels[ch.cid()] = ch
	return ch
}

func (s *Server) joinLocked(ch *channel, userID string) {
	if userID == "" || ch.members[userID] != nil {
		return
	}
	s.userLocked(userID)
	now := s.stampLocked()
	ch.members[userID] = &member{joined: now, lastRead: now}
	ch.order = append(ch.order, userID)
}

func (ch *channel) leave(userID string) {
	if delete(ch.members, userID); slices.Contains(ch.order, userID) {
		ch.order = slices.DeleteFunc(ch.order, func(id string) bool { return id == userID })
	}
}

// AddMember makes users members of a channel "type:id", which is created if need
// be.
func (s *Server) AddMember(cid string, userIDs ...string) error {
	kind, id, err := splitCID(cid)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	ch := s.channels[cid]
	if ch == nil {
		ch = s.createLocked(kind, id, "", nil)
	}
	for _, userID := range userIDs {
		s.joinLocked(ch, userID)
	}
	return nil
}

// Send posts a message to a channel "type:id" as a user, who becomes a member.
// The channel is created if need be, and every connected member gets the event.
func (s *Server) Send(cid, userID, text string) error {
	if err := s.AddMember(cid, userID); err != nil {
		return err
	}
	s.mu.Lock()
	_, slow := s.postLocked(s.channels[cid], userID, newConnectionID(), map[string]json.RawMessage{"text": encode(text)})
	s.mu.Unlock()
	s.drop(slow)
	return nil
}

// Emit sends an event to every open socket of a user, of everyone for the empty
// id, exactly as encoding/json renders it, and returns how many those were. Any
// JSON value may be sent, hostile ones included; for what is no JSON see
// [Server.Garbage].
func (s *Server) Emit(userID string, event any) (int, error) {
	data, err := json.Marshal(event)
	if err != nil {
		return 0, fmt.Errorf("devserver: %w", err)
	}
	return s.broadcast(userID, textFrame(data)), nil
}

// broadcast queues frames for the open sockets of a user, or of everyone.
func (s *Server) broadcast(userID string, frames ...frame) int {
	s.mu.Lock()
	sockets := s.onlineLocked(userID)
	slow := s.pushLocked(sockets, frames...)
	s.mu.Unlock()
	s.drop(slow)
	return len(sockets)
}

// postLocked stores a message and tells members and watchers. A message whose id
// is known already is a repeat: the first one is returned and nobody is told.
func (s *Server) postLocked(ch *channel, userID, id string, fields map[string]json.RawMessage) (json.RawMessage, []*socket) {
	if old, ok := ch.sent[id]; ok {
		return old, nil
	}
	author := s.publicLocked(s.userLocked(userID))
	now := s.stampLocked()
	message := object{}
	for key, value := range fields {
		message[key] = value
	}
	maps.Copy(message, object{
		"id": id, "cid": ch.cid(), "type": "regular", "user": author,
		"created_at": stamp(now), "updated_at": stamp(now),
	})
	data := json.RawMessage(encode(message))
	ch.sent[id] = data
	ch.messages = append(ch.messages, id)
	if len(ch.messages) > historyLimit {
		for _, old := range ch.messages[:historyLimit/2] {
			delete(ch.sent, old)
		}
		ch.messages = slices.Clone(ch.messages[historyLimit/2:])
	}
	for id, m := range ch.members {
		if id != userID {
			m.unread++
		}
	}
	return data, s.tellLocked(ch, now, object{"type": "message.new", "message": data, "user": author})
}

// tellLocked sends an event to everyone connected who is a member or watches,
// and remembers it for /sync.
func (s *Server) tellLocked(ch *channel, at time.Time, event object) (slow []*socket) {
	maps.Copy(event, object{"cid": ch.cid(), "channel_type": ch.kind, "channel_id": ch.id, "created_at": stamp(at)})
	data := encode(event)
	ch.events = append(ch.events, pastEvent{at, data})
	if len(ch.events) > historyLimit {
		ch.events = slices.Clone(ch.events[historyLimit/2:])
	}
	var to []*socket
	for _, userID := range ch.order {
		for so := range s.online[userID] {
			to = append(to, so)
		}
	}
	for so := range ch.watchers {
		if so.open && ch.members[so.userID] == nil {
			to = append(to, so)
		}
	}
	return s.pushLocked(to, textFrame(data))
}

func (s *Server) channelLocked(ch *channel) object {
	o := object{}
	for key, value := range ch.custom {
		o[key] = value
	}
	maps.Copy(o, object{
		"id": ch.id, "type": ch.kind, "cid": ch.cid(), "member_count": len(ch.order), "frozen": false, "disabled": false,
		"created_at": stamp(ch.created), "updated_at": stamp(ch.updated),
	})
	if ch.createdBy != "" {
		o["created_by"] = s.publicLocked(s.userLocked(ch.createdBy))
	}
	return o
}

// stateLocked is the answer to a query: the channel with its last messages.
func (s *Server) stateLocked(ch *channel, limit int) object {
	members, read := []object{}, []object{}
	for _, id := range ch.order {
		m, u := ch.members[id], s.publicLocked(s.userLocked(id))
		members = append(members, object{"user_id": id, "user": u, "created_at": stamp(m.joined), "updated_at": stamp(m.joined)})
		read = append(read, object{"user": u, "last_read": stamp(m.lastRead), "unread_messages": m.unread})
	}
	messages := []json.RawMessage{}
	for _, id := range ch.messages[max(0, len(ch.messages)-limit):] {
		messages = append(messages, ch.sent[id])
	}
	return object{
		"channel": s.channelLocked(ch), "members": members, "read": read, "watcher_count": len(ch.watchers),
		"messages": messages,
	}
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
	creator := c.who.userID
	if c.who.server {
		if creator = named(custom.Data, "created_by"); creator != "" && !validID(creator) {
			return 0, nil, refuse(4, "created_by is not valid")
		}
	}
	for _, key := range []string{"members", "id", "type", "cid", "created_by", "created_by_id", "created_at", "updated_at"} {
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
		ch = s.createLocked(kind, id, creator, custom.Data)
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
		if _, already := ch.watchers[so]; !already {
			ch.watchers[so] = struct{}{}
			so.watching = append(so.watching, ch)
		}
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
	var id, body string
	json.Unmarshal(in.Message["id"], &id) // one that is no string counts as absent
	json.Unmarshal(in.Message["text"], &body)
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
	author, refusal := c.actor(in.Message)
	if refusal != nil {
		return 0, nil, refusal
	}

	var message json.RawMessage
	refusal = s.inChannel(c, createMessage, func(ch *channel) (slow []*socket) {
		message, slow = s.postLocked(ch, author, id, in.Message)
		return slow
	})
	return http.StatusCreated, object{"message": message}, refusal
}

// actor returns who does what is asked for: the sender or, if that is a backend,
// the user whom the fields name.
func (c *call) actor(fields map[string]json.RawMessage) (string, *APIError) {
	if !c.who.server {
		return c.who.userID, nil
	}
	userID := named(fields, "user")
	if !validID(userID) {
		return "", refuse(4, "the user for whom a backend acts is missing or not valid")
	}
	return userID, nil
}

// named reads a user's id in both forms that backends send: "user_id":"id" and
// "user":{"id":"id"}. It is empty if there is none.
func named(fields map[string]json.RawMessage, key string) string {
	var id string
	var user struct {
		ID string `json:"id"`
	}
	json.Unmarshal(fields[key+"_id"], &id) // a wrong type counts as absent
	json.Unmarshal(fields[key], &user)
	return cmp.Or(id, user.ID)
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

// markRead resets a user's unread count and tells the channel.
func (s *Server) markRead(c *call) (int, object, *APIError) {
	var in map[string]json.RawMessage
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	reader, refusal := c.actor(in)
	if refusal != nil {
		return 0, nil, refusal
	}
	var event object
	refusal = s.inChannel(c, markRead, func(ch *channel) []*socket {
		now := s.stampLocked()
		if m := ch.members[reader]; m != nil {
			m.unread, m.lastRead = 0, now
		}
		event = object{"type": "message.read", "user": s.publicLocked(s.userLocked(reader))}
		return s.tellLocked(ch, now, event)
	})
	return http.StatusCreated, object{"event": event}, refusal
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
