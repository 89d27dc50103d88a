// Package follow brings every message of a channel to a program that stays
// connected for months.
package follow

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/chatapi"
	"github.com/chatconn/chatconn/fsm"
)

const (
	history = 100             // messages that are fetched after each connect
	pause   = 5 * time.Second // before what failed is tried again
)

// Messages calls handle with the messages of a channel, in order and one at a
// time: first the latest ones, then each that is sent from now on. An event that
// was sent while no socket was open does not come later, so after each connect the
// channel is read again; up to 100 messages are caught up with so.
//
// If handle fails it is called again, with the same message. So it may see a
// message twice, also after a restart of the program: what it sends should have
// an id made of the message's, by which the service drops repeats.
//
// It returns when the context ends or the connection is Offline for good, with
// the reason.
func Messages(ctx context.Context, conn *chatconn.Conn, api *chatapi.Client, cid string,
	handle func(context.Context, chatapi.Message) error) error {
	changes, events := conn.Watch(ctx), conn.Events(ctx, "message.new")
	var last time.Time         // of the newest message that was handled
	var again <-chan time.Time // when what failed is tried again; nil: nothing has failed
	catchUp := func() {
		again = nil
		channel, err := api.Query(ctx, cid, chatapi.Query{Watch: true, Messages: history})
		for _, m := range channel.Messages {
			if err == nil && m.CreatedAt.After(last) {
				if err = handle(ctx, m); err == nil {
					last = m.CreatedAt
				}
			}
		}
		if err != nil {
			again = time.After(pause)
		}
	}
	for {
		select {
		case change, ok := <-changes:
			switch {
			case !ok, change.To == fsm.Offline:
				return cmp.Or(context.Cause(ctx), change.Cause, chatconn.ErrDisconnected)
			case change.To == fsm.Connected && (change.Moved() || change.Event == 0):
				catchUp()
			}
		case event, ok := <-events:
			var e chatapi.NewMessage
			switch {
			case !ok:
				return cmp.Or(context.Cause(ctx), chatconn.ErrClosed)
			case event.Missed > 0:
				catchUp()
			case event.CID != cid, again != nil, json.Unmarshal(event.Raw, &e) != nil, !e.Message.CreatedAt.After(last):
				// Another channel's, or one that catching up brings or has brought.
			default:
				if handle(ctx, e.Message) != nil {
					again = time.After(pause)
				} else {
					last = e.Message.CreatedAt
				}
			}
		case <-again:
			catchUp()
		}
	}
}
