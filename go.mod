module github.com/chatconn/chatconn

go 1.25

require (
	github.com/alecthomas/kong v1.17.0
	github.com/cenkalti/backoff/v4 v4.3.0
	github.com/golang-jwt/jwt/v5 v5.3.1
	github.com/gorilla/websocket v1.5.3
	github.com/looplab/fsm v1.0.3
	golang.org/x/oauth2 v0.35.0
)
