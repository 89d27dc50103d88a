package devserver

import (
	"encoding/json"
	"maps"
	"net/http"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// user is someone whom the server knows.
type user struct {
	id, role         string
	wish             string                     // of a guest: the id that was asked for
	custom           map[string]json.RawMessage // name, image and whatever else the client sent
	created, updated time.Time
	active           time.Time // last login or logout
}

// reserved are the fields of a user that only the server sets.
var reserved = map[string]bool{
	"id": true, "role": true, "created_at": true, "updated_at": true, "last_active": true, "online": true, "banned": true,
	"devices": true, "mutes": true, "channel_mutes": true, "unread_count": true, "total_unread_count": true,
	"unread_channels": true, "unread_threads": true,
}

// userLocked returns a user, created if the server does not know them (C4).
func (s *Server) userLocked(id string) *user {
	u := s.users[id]
	if u == nil {
		now := s.stampLocked()
		u = &user{id: id, role: "user", custom: make(map[string]json.RawMessage), created: now, updated: now}
		if id == anonymousID {
			u.role = "anonymous"
		}
		s.users[id] = u
	}
	return u
}

// wishOf returns the id that was asked for when a guest was made; empty for
// everyone else.
func (s *Server) wishOf(userID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[userID]; u != nil {
		return u.wish
	}
	return ""
}

// update overwrites the fields that a client sent; others stay, so that a login
// with nothing but the id changes nothing (C4).
func (u *user) update(details map[string]json.RawMessage, now time.Time) {
	for key, value := range details {
		if !reserved[key] {
			u.custom[key] = value
			u.updated = now
		}
	}
}

// publicLocked is how others see a user: custom fields at the root.
func (s *Server) publicLocked(u *user) object {
	o := object{}
	for key, value := range u.custom {
		o[key] = value
	}
	maps.Copy(o, object{
		"id": u.id, "role": u.role, "banned": false, "online": len(s.online[u.id]) > 0,
		"created_at": stamp(u.created), "updated_at": stamp(u.updated),
	})
	if !u.active.IsZero() {
		o["last_active"] = stamp(u.active)
	}
	return o
}

// ownLocked is how users see themselves: the "me" of the hello.
func (s *Server) ownLocked(u *user) object {
	unread, channels := 0, 0
	for _, ch := range s.channels {
		if m := ch.members[u.id]; m != nil && m.unread > 0 {
			unread += m.unread
			channels++
		}
	}
	o := s.publicLocked(u)
	maps.Copy(o, object{
		"devices": []any{}, "mutes": []any{}, "channel_mutes": []any{},
		"unread_count": unread, "total_unread_count": unread, "unread_channels": channels, "unread_threads": 0,
	})
	return o
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
	u.role, u.wish = "guest", wanted
	u.update(in.User, u.created)
	public := s.publicLocked(u)
	s.mu.Unlock()
	return http.StatusCreated, object{"user": public, "access_token": token}, nil
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
		if refusal := s.revokeAsTold(change.ID, change.Set); refusal != nil {
			return 0, nil, refusal
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
