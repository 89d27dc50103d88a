package devserver

import (
	"encoding/json"
	"maps"
	"time"
)

// user is someone whom the server knows.
type user struct {
	id, role         string
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
