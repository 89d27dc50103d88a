package devserver

import "fmt"

// action is something that a role may do in a channel.
type action int

const (
	readChannel action = iota
	createChannel
	createMessage
	updateMembers
	markRead
)

var actionNames = [...]string{"ReadChannel", "CreateChannel", "CreateMessage", "UpdateChannelMembers", "MarkRead"}

// reach is how far a permission goes.
type reach int

const (
	never    reach = iota
	ifMember       // in channels of which the user is a member
	always
)

// permissions is who may do what, for livestream channels and for all others
// (D2). A backend's token may do everything.
var permissions = map[string]struct{ livestream, other [len(actionNames)]reach }{
	"user": {
		livestream: [...]reach{readChannel: always, createChannel: always, createMessage: always, updateMembers: ifMember, markRead: ifMember},
		other:      [...]reach{readChannel: ifMember, createChannel: always, createMessage: ifMember, updateMembers: ifMember, markRead: ifMember},
	},
	"guest": {
		livestream: [...]reach{readChannel: always, createChannel: never, createMessage: always, updateMembers: never, markRead: ifMember},
		other:      [...]reach{readChannel: ifMember, createChannel: never, createMessage: ifMember, updateMembers: never, markRead: ifMember},
	},
	"anonymous": {
		livestream: [...]reach{readChannel: always, createChannel: never, createMessage: never, updateMembers: never, markRead: never},
		other:      [...]reach{readChannel: never, createChannel: never, createMessage: never, updateMembers: never, markRead: never},
	},
}

// mayLocked checks an action in a channel, which is nil if it is to be created.
func (s *Server) mayLocked(who identity, do action, kind string, ch *channel) *APIError {
	if who.server {
		return nil
	}
	role := s.userLocked(who.userID).role
	grants := permissions[role]
	reach := grants.other[do]
	if kind == "livestream" {
		reach = grants.livestream[do]
	}
	if reach == always || reach == ifMember && ch != nil && ch.members[who.userID] != nil {
		return nil
	}
	return refuse(17, fmt.Sprintf("User '%s' with role %s is not allowed to perform action %s in scope '%s'", who.userID, role, actionNames[do], kind))
}
