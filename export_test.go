package chatconn

import "github.com/chatconn/chatconn/fsm"

// SetMachine gives a new Conn another machine, such as a mutant.
func (c *Conn) SetMachine(m *fsm.Machine) { c.machine = m }

// OwnDials makes a new Conn dial as if its DialContext were our own code, so that a
// caller may make an attempt. API requests need an HTTPTransport then.
func (c *Conn) OwnDials() { c.cfg.DialContext, c.cfg.DialLimit = nil, nil }

// Under is what is under way of each kind, and how many timers run for it.
type Under struct{ Waits, Loads, Dials, Sockets, Timers int }

// UnderWay tells what is under way. Only for when nothing moves; the lock is for the
// race detector, which cannot know that.
func (c *Conn) UnderWay() (u Under) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range map[kind]*int{waiting: &u.Waits, loading: &u.Loads, dialing: &u.Dials, serving: &u.Sockets} {
		if w := c.under[k]; w != nil {
			*n++
			if w.timer != nil {
				u.Timers++
			}
		}
	}
	if w := c.under[gracing]; w != nil && w.timer != nil {
		u.Timers++
	}
	return u
}
