package fsm

import "strings"

// Facts are what the machine knows besides its state. The zero value is an app
// in front, a network that is up and no open socket.
type Facts uint8

const (
	InBackground Facts = 1 << iota // the last lifecycle news was Background
	NetworkDown                    // the last network news was NetworkLost
	SocketOpen                     // a socket is open
)

// Holds are the facts that forbid a connection.
const Holds = InBackground | NetworkDown

// Has reports whether all facts of q stand.
func (f Facts) Has(q Facts) bool { return f&q == q }

// Held reports whether a hold stands.
func (f Facts) Held() bool { return f&Holds != 0 }

var factNames = []struct {
	fact Facts
	name string
}{{InBackground, "InBackground"}, {NetworkDown, "NetworkDown"}, {SocketOpen, "SocketOpen"}}

// FactNames returns the names of the facts, in order.
func FactNames() []string {
	names := make([]string, len(factNames))
	for i, n := range factNames {
		names[i] = n.name
	}
	return names
}

// String lists the facts that stand, joined by "+"; it is empty for none.
func (f Facts) String() string {
	var names []string
	for _, n := range factNames {
		if f.Has(n.fact) {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, "+")
}

// Qualifier says that an event becomes another one while a fact stands.
type Qualifier struct {
	Event   Event
	When    Facts
	Becomes Event
}

// qualifiers is the whole of what facts do to events.
var qualifiers = []Qualifier{
	{Connect, InBackground, ConnectHeld},
	{Connect, NetworkDown, ConnectHeld},
	{ReconnectSocket, InBackground, ReconnectSocketHeld},
	{ReconnectSocket, NetworkDown, ReconnectSocketHeld},
	{Foreground, NetworkDown, ForegroundHeld},
	{NetworkAvailable, InBackground, NetworkAvailableHeld},
	{TokenLoaded, SocketOpen, TokenRenewed},
}

// Qualifiers returns the rules by which [Qualify] names events.
func Qualifiers() []Qualifier { return append([]Qualifier(nil), qualifiers...) }

// news is what events do to facts, in every state alike.
var news = [numEvents]struct{ set, clear Facts }{
	Background:       {set: InBackground},
	Foreground:       {clear: InBackground},
	NetworkLost:      {set: NetworkDown},
	NetworkAvailable: {clear: NetworkDown},
	Opened:           {set: SocketOpen},
}

// Qualify takes in the news that an event brings and returns the form of the
// event that the table knows. It is pure.
func Qualify(f Facts, e Event) (Facts, Event) {
	if e >= numEvents {
		return f, e
	}
	f = f&^news[e].clear | news[e].set
	for _, q := range qualifiers {
		if q.Event == e && f.Has(q.When) {
			return f, q.Becomes
		}
	}
	return f, e
}

// after returns the facts once the actions of a step are under way: whoever
// hangs up has no open socket.
func (f Facts) after(do []Action) Facts {
	for _, a := range do {
		if a == HangUp {
			f &^= SocketOpen
		}
	}
	return f
}
