package chatconn

import "github.com/chatconn/chatconn/fsm"

// SetMachine gives a new Conn another machine, such as a mutant.
func (c *Conn) SetMachine(m *fsm.Machine) { c.machine = m }
