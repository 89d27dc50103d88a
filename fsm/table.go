package fsm

// declared is the life of a connection: five states, every event, one cell
// each. Read a row as: in this state, on this event, do this and be there.
//
// The way to a connection is one chain for every attempt: Retry (the wait, which
// may be zero), RetryDue, LoadToken (the cached one or the source), Dial. So no
// cell asks whether there is a token or how far an attempt has come. Policy
// decides how long the wait is; the order is here.
//
// Two rules hold in every reachable place. Offline and Paused are quiet: nothing
// runs. Connecting and Refreshing are busy: exactly one of the wait, the load
// and the dial runs. A cell that would break them is refused, with the reason
// why it cannot be reached.
var declared = complete(Table{
	Offline: {
		Connect:              move(Connecting, "a user is wanted: the first attempt begins", Retry),
		ConnectHeld:          move(Paused, "a user is wanted; the attempt begins when the last hold goes"),
		ReconnectSocket:      move(Connecting, "the user's socket is wanted again: a new attempt begins", Retry),
		ReconnectSocketHeld:  move(Paused, "the socket is wanted again; the attempt begins when the last hold goes"),
		DisconnectSocket:     stay("there is no socket; the cached token goes all the same", DropToken),
		Disconnect:           stay("there is no connection; the user is forgotten", ForgetUser),
		Close:                stay("there is no connection; the last one is over", ForgetUser, Finish),
		Abandoned:            refuse("who waits was answered when the connection went Offline"),
		Background:           ignore("nothing is wanted; the hold is remembered"),
		Foreground:           ignore("nothing is wanted: only a call leaves Offline"),
		ForegroundHeld:       ignore("nothing is wanted: only a call leaves Offline"),
		Woke:                 ignore("there is no socket to doubt"),
		NetworkLost:          ignore("nothing is wanted; the hold is remembered"),
		NetworkAvailable:     ignore("nothing is wanted: only a call leaves Offline"),
		NetworkAvailableHeld: ignore("nothing is wanted: only a call leaves Offline"),
		TokenLoaded:          refuse("no load runs while Offline"),
		TokenRenewed:         refuse("no load runs while Offline"),
		TokenFailed:          refuse("no load runs while Offline"),
		TokenDenied:          refuse("no load runs while Offline"),
		RequestRefused:       stay("the answer to an earlier request: its token is of no use any more", RefuseToken),
		Opened:               refuse("no dial runs while Offline"),
		Dropped:              refuse("no dial runs and no socket is open while Offline"),
		Unhealthy:            refuse("no socket is open while Offline"),
		TokenRefused:         refuse("no dial runs and no socket is open while Offline"),
		TokenUntimely:        refuse("no dial runs and no socket is open while Offline"),
		Denied:               refuse("no dial runs and no socket is open while Offline"),
		RetryDue:             refuse("no wait runs while Offline"),
		RetriesSpent:         refuse("no wait runs while Offline"),
	},

	Connecting: {
		Connect:              stay("the attempt is shared, and a caller does not want to wait", SkipWait),
		ConnectHeld:          refuse("a hold would have paused the attempt"),
		ReconnectSocket:      stay("the attempt is shared, and a caller does not want to wait", SkipWait),
		ReconnectSocketHeld:  refuse("a hold would have paused the attempt"),
		DisconnectSocket:     move(Offline, "the program wants no socket", Halt, DropToken, Fail),
		Disconnect:           move(Offline, "the program wants no user", Halt, ForgetUser, Fail),
		Close:                move(Offline, "the connection is over", Halt, ForgetUser, Fail, Finish),
		Abandoned:            move(Offline, "nobody waits for the first success any more", Halt, ForgetUser, Fail),
		Background:           move(Paused, "the first hold: everything stops", Halt),
		Foreground:           stay("a person may be looking: no need to wait", SkipWait),
		ForegroundHeld:       refuse("a network that is down would have paused the attempt"),
		Woke:                 stay("the wait was meant for a clock that has jumped", SkipWait),
		NetworkLost:          move(Paused, "the first hold: everything stops", Halt),
		NetworkAvailable:     stay("the cause of the wait may be gone, and the route of an old dial", SkipWait, Redial),
		NetworkAvailableHeld: refuse("the background would have paused the attempt"),
		TokenLoaded:          stay("the attempt has its token; so have the waiting requests", Release, Dial),
		TokenRenewed:         refuse("no socket is open while Connecting"),
		TokenFailed:          stay("no token, no attempt: the next one begins", Retry),
		TokenDenied:          move(Offline, "the source gives no token, now or later", ForgetStranger, Fail),
		RequestRefused:       move(Refreshing, "the API refuses the token that the attempt would use", Halt, RefuseToken, Retry),
		Opened:               move(Connected, "the first health check came", Listen, Settle),
		Dropped:              stay("the dial failed: the next attempt begins", Retry),
		Unhealthy:            refuse("a dial has its own deadline; only an open socket is watched"),
		TokenRefused:         move(Refreshing, "the handshake refuses the token: a fresh one is needed", RefuseToken, Retry),
		TokenUntimely:        move(Refreshing, "the token is too young for the server: another one, later", DropToken, Retry),
		Denied:               move(Offline, "the server refuses for good", DropToken, ForgetStranger, Fail),
		RetryDue:             stay("the wait is over: first the token", LoadToken),
		RetriesSpent:         move(Offline, "the last permitted attempt failed", ForgetStranger, Fail),
	},

	Connected: {
		Connect:              stay("the session is there already", Settle),
		ConnectHeld:          refuse("a hold would have paused the connection"),
		ReconnectSocket:      stay("the session is there already", Settle),
		ReconnectSocketHeld:  refuse("a hold would have paused the connection"),
		DisconnectSocket:     move(Offline, "the program wants no socket", HangUp, DropToken),
		Disconnect:           move(Offline, "the program wants no user", HangUp, ForgetUser),
		Close:                move(Offline, "the connection is over", HangUp, ForgetUser, Finish),
		Abandoned:            refuse("who waits was answered when the socket opened"),
		Background:           move(Paused, "the first hold: the socket closes", HangUp),
		Foreground:           ignore("the socket is open already"),
		ForegroundHeld:       refuse("a network that is down would have paused the connection"),
		Woke:                 stay("the peer may have given up meanwhile: ask", Probe),
		NetworkLost:          move(Paused, "the first hold: the socket closes", HangUp),
		NetworkAvailable:     stay("the route may have changed under the socket: ask, do not drop", Probe),
		NetworkAvailableHeld: refuse("the background would have paused the connection"),
		TokenLoaded:          refuse("no load runs while Connected"),
		TokenRenewed:         refuse("no load runs while Connected"),
		TokenFailed:          refuse("no load runs while Connected"),
		TokenDenied:          refuse("no load runs while Connected"),
		RequestRefused:       move(Refreshing, "the API refuses the token; the socket is healthy and stays", RefuseToken, Retry),
		Opened:               refuse("no dial runs while Connected"),
		Dropped:              move(Connecting, "the socket is gone, the token is good: a new attempt begins", HangUp, Retry),
		Unhealthy:            move(Refreshing, "the peer fell silent: a new attempt begins, with a fresh token", HangUp, DropToken, Retry),
		TokenRefused:         move(Refreshing, "the socket refuses the token: a fresh one is needed", HangUp, RefuseToken, Retry),
		TokenUntimely:        move(Refreshing, "the token is too young for the server: another one, later", HangUp, DropToken, Retry),
		Denied:               move(Offline, "the server refuses for good", HangUp, DropToken),
		RetryDue:             refuse("no wait runs while Connected"),
		RetriesSpent:         refuse("no wait runs while Connected"),
	},

	Refreshing: {
		Connect:              stay("the fresh token is on its way, and a caller does not want to wait", SkipWait),
		ConnectHeld:          refuse("a hold would have paused the refresh"),
		ReconnectSocket:      stay("the fresh token is on its way, and a caller does not want to wait", SkipWait),
		ReconnectSocketHeld:  refuse("a hold would have paused the refresh"),
		DisconnectSocket:     move(Offline, "the program wants no socket", Halt, HangUp, Fail),
		Disconnect:           move(Offline, "the program wants no user", Halt, HangUp, ForgetUser, Fail),
		Close:                move(Offline, "the connection is over", Halt, HangUp, ForgetUser, Fail, Finish),
		Abandoned:            move(Offline, "nobody waits for the first success any more", Halt, ForgetUser, Fail),
		Background:           move(Paused, "the first hold: everything stops; the load begins anew later", Halt, HangUp),
		Foreground:           stay("a person may be looking: no need to wait", SkipWait),
		ForegroundHeld:       refuse("a network that is down would have paused the refresh"),
		Woke:                 stay("the wait was meant for a clock that has jumped; the peer may have given up", SkipWait, Probe),
		NetworkLost:          move(Paused, "the first hold: everything stops; the load begins anew later", Halt, HangUp),
		NetworkAvailable:     stay("the cause of the wait may be gone; the route may have changed under the socket", SkipWait, Probe),
		NetworkAvailableHeld: refuse("the background would have paused the refresh"),
		TokenLoaded:          move(Connecting, "the fresh token is there: reconnect at once", Release, Dial),
		TokenRenewed:         move(Connected, "the fresh token is there, and the socket stayed open", Release, Settle),
		TokenFailed:          stay("no fresh token yet: the next round begins", Retry),
		TokenDenied:          move(Offline, "the source gives no token, now or later", HangUp, ForgetStranger, Fail),
		RequestRefused:       refuse("no token is cached while Refreshing: an answer can only refuse an older one"),
		Opened:               refuse("no dial runs while Refreshing"),
		Dropped:              stay("the socket went while its token is replaced: the load goes on", HangUp),
		Unhealthy:            stay("the peer fell silent while its token is replaced: the load goes on", HangUp),
		TokenRefused:         stay("the socket refuses the token that is being replaced: the load goes on", HangUp),
		TokenUntimely:        stay("the socket refuses the token that is being replaced: the load goes on", HangUp),
		Denied:               move(Offline, "the server refuses for good", Halt, HangUp, Fail),
		RetryDue:             stay("the wait is over: load a fresh token", LoadToken),
		RetriesSpent:         move(Offline, "the last permitted attempt failed", HangUp, ForgetStranger, Fail),
	},

	Paused: {
		Connect:              refuse("Paused has a hold, so the call is held"),
		ConnectHeld:          ignore("wanted already; the caller waits for the last hold to go"),
		ReconnectSocket:      refuse("Paused has a hold, so the call is held"),
		ReconnectSocketHeld:  ignore("wanted already; the caller waits for the last hold to go"),
		DisconnectSocket:     move(Offline, "the program wants no socket", DropToken, Fail),
		Disconnect:           move(Offline, "the program wants no user", ForgetUser, Fail),
		Close:                move(Offline, "the connection is over", ForgetUser, Fail, Finish),
		Abandoned:            move(Offline, "nobody waits for the first success any more", ForgetUser, Fail),
		Background:           ignore("one more hold, or the same again: it is remembered"),
		Foreground:           move(Connecting, "the last hold went: a new attempt begins", Retry),
		ForegroundHeld:       ignore("the network is still down"),
		Woke:                 ignore("there is no socket to doubt"),
		NetworkLost:          ignore("one more hold, or the same again: it is remembered"),
		NetworkAvailable:     move(Connecting, "the last hold went: a new attempt begins", Retry),
		NetworkAvailableHeld: ignore("the app is still in the background"),
		TokenLoaded:          refuse("no load runs while Paused"),
		TokenRenewed:         refuse("no load runs while Paused"),
		TokenFailed:          refuse("no load runs while Paused"),
		TokenDenied:          refuse("no load runs while Paused"),
		RequestRefused:       stay("the caller gets the answer; a fresh token is loaded on leaving", RefuseToken),
		Opened:               refuse("no dial runs while Paused"),
		Dropped:              refuse("no dial runs and no socket is open while Paused"),
		Unhealthy:            refuse("no socket is open while Paused"),
		TokenRefused:         refuse("no dial runs and no socket is open while Paused"),
		TokenUntimely:        refuse("no dial runs and no socket is open while Paused"),
		Denied:               refuse("no dial runs and no socket is open while Paused"),
		RetryDue:             refuse("no wait runs while Paused"),
		RetriesSpent:         refuse("no wait runs while Paused"),
	},
})

// answers says what work brings back. What an action starts ends in exactly one
// of these events, unless it is abandoned first; then in none.
var answers = [numActions][]Event{
	Retry:     {RetryDue, RetriesSpent},
	LoadToken: {TokenLoaded, TokenFailed, TokenDenied},
	Dial:      {Opened, Dropped, TokenRefused, TokenUntimely, Denied},
	Listen:    {Dropped, Unhealthy, TokenRefused, TokenUntimely, Denied},
}

// Answers returns the events in which the work that an action starts can end;
// none for an action that starts no work.
func Answers(a Action) []Event {
	if a >= numActions {
		return nil
	}
	return append([]Event(nil), answers[a]...)
}

func move(to State, why string, do ...Action) Cell {
	return Cell{Move, Step{To: to, Do: do, Why: why}}
}
func stay(why string, do ...Action) Cell { return Cell{Stay, Step{Do: do, Why: why}} }
func ignore(why string) Cell             { return Cell{Ignore, Step{Why: why}} }
func refuse(why string) Cell             { return Cell{Refuse, Step{Why: why}} }

// complete writes the state itself into the cells that keep it.
func complete(t Table) Table {
	for s := range t {
		for e := range t[s] {
			if t[s][e].Verdict != Move {
				t[s][e].To = State(s)
			}
		}
	}
	return t
}
