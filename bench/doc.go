// Package bench compares this module with a bare gorilla/websocket client and a
// bare http.Client that do the same work against the same server, which runs in a
// process of its own. The figures of the two take turns, and what is reported are
// medians and their ratio, so that a busy machine disturbs both alike:
//
//	go test -run '^$' -bench . ./bench
package bench
