package chatconn

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/chatconn/chatconn/fsm"
)

// log tells the program's logger of changes, losses and failed attempts. The
// logger runs on the side lane. Causes contain no token: they are made of what
// the floors report, which leave tokens and URLs out. Specification: O3, T11.
func (c *Conn) log(t fsm.Transition, change Change) {
	if c.cfg.Logger == nil {
		return
	}
	failed := change.Cause != nil && t.Event.Kind() != fsm.User
	level := slog.LevelDebug
	switch {
	case failed:
		level = slog.LevelWarn
	case change.Moved():
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("from", change.From.String()),
		slog.String("event", t.Event.String()),
		slog.String("to", change.To.String()),
	}
	if change.Attempt > 0 {
		attrs = append(attrs, slog.Int("attempt", change.Attempt))
	}
	if !change.RetryAt.IsZero() {
		attrs = append(attrs, slog.Duration("in", change.RetryAt.Sub(change.At)))
	}
	if change.Cause != nil {
		attrs = append(attrs, slog.String("cause", change.Cause.Error()))
	}
	c.tell(level, "chatconn: "+t.Why, attrs...)
}

// logBug reports an event that the table refuses, or a table that its executor
// contradicts.
func (c *Conn) logBug(t fsm.Transition, err error) {
	attrs := []slog.Attr{
		slog.String("state", t.From.State.String()),
		slog.String("facts", t.From.Facts.String()),
		slog.String("event", t.Event.String()),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	c.tell(slog.LevelError, "chatconn: BUG: an event that cannot happen: "+t.Why, attrs...)
}

func (c *Conn) tell(level slog.Level, message string, attrs ...slog.Attr) {
	if logger := c.cfg.Logger; logger != nil {
		c.side.do(func() { logger.LogAttrs(context.Background(), level, message, attrs...) })
	}
}

// record writes one JSON line for a transition. Specification: O4.
func (c *Conn) record(t fsm.Transition, change Change) {
	out := c.cfg.Record
	if out == nil {
		return
	}
	actions := make([]string, len(t.Do))
	for i, a := range t.Do {
		actions[i] = a.String()
	}
	line, err := json.Marshal(struct {
		Seq     uint64    `json:"seq"`
		Time    time.Time `json:"time"`
		From    string    `json:"from"`
		Event   string    `json:"event"`
		Verdict string    `json:"verdict"`
		To      string    `json:"to"`
		Actions []string  `json:"actions"`
		Cause   string    `json:"cause,omitempty"`
		Attempt int       `json:"attempt,omitempty"`
	}{c.steps, change.At, change.From.String(), t.Event.String(), t.Verdict.String(), change.To.String(),
		actions, causeClass(change.Cause), change.Attempt})
	if err != nil {
		panic("BUG: chatconn: a transition that is no JSON: " + err.Error())
	}
	c.side.do(func() { _, _ = out.Write(append(line, '\n')) })
}
