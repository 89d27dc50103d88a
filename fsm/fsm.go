// Package fsm is the life of one chat connection as a table.
//
// Five states and the events of the outside world meet in one cell each (see
// table.go). A cell says what happens: the connection moves, stays, ignores the
// event, or refuses it because it cannot happen there. With the verdict come
// the actions, in the order in which their owner carries them out, and the
// reason in words.
//
// House rules:
//
//   - Everything that decides where a connection goes stands in this package.
//     A fact that would change a destination is an event of its own; [Qualify]
//     names it from the three [Facts] that the machine keeps.
//   - Nothing here acts. There is no network, no clock and no goroutine; a step
//     returns the work to be done as a list of [Action] values.
//   - No wildcard and no default row: a cell nobody wrote does not compile into
//     a [Machine].
//
// All values are small and safe to copy. A [Machine] is safe for concurrent use;
// a connection's [Position] belongs to whoever steps it.
package fsm

import "fmt"

// State completes the sentence "the connection is …". The zero value is Offline.
type State uint8

const (
	// Offline: nothing is wanted, or the last error was final. No socket, no
	// timer, no token load, nothing queued. Only a call leaves it.
	Offline State = iota
	// Connecting: a connection is wanted and allowed. The wait before an
	// attempt, the token, the dial, the handshake up to the first health check.
	Connecting
	// Connected: a health check with a connection id has come.
	Connected
	// Refreshing: the cached token was refused or dropped, and a fresh one is
	// being loaded or its failed load waits to be repeated. API requests wait.
	// An open socket stays open when an API answer was the cause.
	Refreshing
	// Paused: a connection is wanted, but the app is in the background or the
	// network is down. No socket, timer, load or dial; it leaves by itself.
	Paused

	numStates = 5
)

// States returns the five states in the order of their values.
func States() []State { return []State{Offline, Connecting, Connected, Refreshing, Paused} }

var stateNames = [numStates]string{"Offline", "Connecting", "Connected", "Refreshing", "Paused"}

// String returns the name of the state.
func (s State) String() string { return name(stateNames[:], s, "State") }

// Simple folds the five states into the three that many apps show: Connected,
// Connecting (Connecting or Refreshing) and Offline (Offline or Paused).
// Specification: M6.
func (s State) Simple() State {
	switch s {
	case Connected:
		return Connected
	case Connecting, Refreshing:
		return Connecting
	case Offline, Paused:
		return Offline
	}
	panic("BUG: fsm: " + s.String() + " has no simple form")
}

// Event is something that happened or was asked for. The zero value is no
// event. Commands are imperatives and equal the call that posts them; news is
// in the past tense. A name that ends in Held is its event while a hold (the
// background, a network that is down) stands.
type Event uint8

const (
	_ Event = iota

	Connect             // ConnectUser, from Offline or shared with a running attempt
	ConnectHeld         // the same, in the background or without network
	ReconnectSocket     // the call of that name
	ReconnectSocketHeld // the same, in the background or without network
	DisconnectSocket    // the call of that name
	Disconnect          // the call of that name, and the first half of SwitchUser
	Close               // the call of that name: the last event of all
	Abandoned           // the last waiting caller left before the first success

	Background     // the app went to the background
	Foreground     // the app came back, and the network is up
	ForegroundHeld // the app came back, but the network is down
	Woke           // the machine slept: the wall clock jumped

	NetworkLost          // the network went away
	NetworkAvailable     // the network is there (again), and the app is in front
	NetworkAvailableHeld // the network is there, but the app is in the background

	TokenLoaded    // a token is at hand; no socket is open
	TokenRenewed   // a fresh token is at hand, and the socket is still open
	TokenFailed    // the load failed; worth another try
	TokenDenied    // the load failed for good
	RequestRefused // an API answer refused the cached token

	Opened        // the first health check came: the socket is ready
	Dropped       // the dial or the socket failed; the token is not to blame
	Unhealthy     // the open socket was silent too long
	TokenRefused  // the server refused the token; a fresh one may help
	TokenUntimely // the server finds the token too young; waiting helps
	Denied        // the server refused for good

	RetryDue     // the wait before the attempt is over
	RetriesSpent // no attempt is left

	numEvents = iota
)

// Events returns every event in the order of its value.
func Events() []Event {
	all := make([]Event, 0, numEvents-1)
	for e := Event(1); e < numEvents; e++ {
		all = append(all, e)
	}
	return all
}

var eventNames = [numEvents]string{
	"none",
	"Connect", "ConnectHeld", "ReconnectSocket", "ReconnectSocketHeld",
	"DisconnectSocket", "Disconnect", "Close", "Abandoned",
	"Background", "Foreground", "ForegroundHeld", "Woke",
	"NetworkLost", "NetworkAvailable", "NetworkAvailableHeld",
	"TokenLoaded", "TokenRenewed", "TokenFailed", "TokenDenied", "RequestRefused",
	"Opened", "Dropped", "Unhealthy", "TokenRefused", "TokenUntimely", "Denied",
	"RetryDue", "RetriesSpent",
}

// String returns the name of the event; "none" for the zero value.
func (e Event) String() string { return name(eventNames[:], e, "Event") }

// Kind says who causes an event.
type Kind uint8

const (
	User      Kind = iota // a call of the program
	Lifecycle             // the app or the machine went to sleep or woke
	Network               // the network came or went
	Token                 // a token was loaded, or was refused by the API
	Transport             // a dial or a socket brought news
	Timer                 // a wait ended

	numKinds = iota
)

// Kinds returns every kind in the order of its value.
func Kinds() []Kind { return []Kind{User, Lifecycle, Network, Token, Transport, Timer} }

var kindNames = [numKinds]string{"user", "lifecycle", "network", "token", "transport", "timer"}

// String returns the name of the kind, in lower case.
func (k Kind) String() string { return name(kindNames[:], k, "Kind") }

// Kind tells who causes the event. The zero event has none: it panics.
func (e Event) Kind() Kind {
	switch {
	case e >= Connect && e <= Abandoned:
		return User
	case e >= Background && e <= Woke:
		return Lifecycle
	case e >= NetworkLost && e <= NetworkAvailableHeld:
		return Network
	case e >= TokenLoaded && e <= RequestRefused:
		return Token
	case e >= Opened && e <= Denied:
		return Transport
	case e >= RetryDue && e <= RetriesSpent:
		return Timer
	}
	panic("BUG: fsm: " + e.String() + " has no kind")
}

// Action is an order to the owner of a connection. The zero value is no action.
type Action uint8

const (
	_ Action = iota

	Halt           // abandon the wait, the load and the dial under way
	HangUp         // close the open socket, if there is one
	DropToken      // forget the cached token
	RefuseToken    // forget it, and remember that the server refused it
	ForgetUser     // unset the user: token, source and undelivered events go with them
	ForgetStranger // the same, if the user has never been connected
	Retry          // begin an attempt with its wait, which may be zero
	SkipWait       // end the wait of the attempt now, if one runs
	LoadToken      // get a token: the cached one, else from the source
	Release        // let the waiting API requests go, with the token at hand
	Dial           // open a socket
	Redial         // begin the dial under way anew, if it is an old one
	Listen         // read the socket that has opened
	Probe          // ask the open socket, if there is one, for a sign of life
	Settle         // answer the waiting callers with the session
	Fail           // answer the waiting callers and requests with the cause
	Finish         // the connection is over: accept nothing any more

	numActions = iota
)

// Actions returns every action in the order of its value.
func Actions() []Action {
	all := make([]Action, 0, numActions-1)
	for a := Action(1); a < numActions; a++ {
		all = append(all, a)
	}
	return all
}

var actionNames = [numActions]string{
	"none",
	"Halt", "HangUp", "DropToken", "RefuseToken", "ForgetUser", "ForgetStranger",
	"Retry", "SkipWait", "LoadToken", "Release", "Dial", "Redial", "Listen", "Probe",
	"Settle", "Fail", "Finish",
}

// String returns the name of the action; "none" for the zero value.
func (a Action) String() string { return name(actionNames[:], a, "Action") }

// Verdict is what a cell decides. The zero value is invalid: nobody wrote the cell.
type Verdict uint8

const (
	_      Verdict = iota
	Move           // to another state, with actions
	Stay           // in the same state, with actions
	Ignore         // nothing is to be done, and the reason says why
	Refuse         // cannot happen here: a bug if it does; the state is kept

	numVerdicts = iota
)

var verdictNames = [numVerdicts]string{"invalid", "move", "stay", "ignore", "refuse"}

// String returns the name of the verdict, in lower case.
func (v Verdict) String() string { return name(verdictNames[:], v, "Verdict") }

// Step is the outcome of a cell: the next state, the actions in the order in
// which they are carried out, and the reason. Do is shared; do not modify it.
type Step struct {
	To  State
	Do  []Action
	Why string
}

// Next looks up the cell of a state and an event. It is pure. A value that is
// no state or no event has the zero Step and the invalid Verdict.
// Specification: M2, M4.
func Next(s State, e Event) (Step, Verdict) { return declared.Next(s, e) }

func name[T ~uint8](names []string, v T, kind string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", kind, v)
}
