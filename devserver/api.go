package devserver

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
)

const maxBody = 1 << 20 // of an API request

// call is one API request whose sender is known.
type call struct {
	*http.Request
	who  identity
	body []byte
}

// bind decodes the body; an empty one is an empty object. Bodies are plain JSON
// whatever their Content-Encoding says (protocol 1.3).
func (c *call) bind(into any) *APIError {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, into); err != nil {
		return refuse(4, "the body is not the JSON that was expected")
	}
	return nil
}

// routes declares the API. A path that is not here is answered with 404.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /app", s.api("GetApp", s.getApp))
	mux.Handle("PATCH /app", s.api("UpdateApp", s.updateApp))
	mux.Handle("PATCH /users", s.api("UpdateUsersPartial", s.updateUsers))
	mux.Handle("POST /guest", s.api("CreateGuest", s.createGuest))
	mux.Handle("POST /sync", s.api("Sync", s.sync))
	mux.Handle("POST /channels/{type}/{id}", s.api("UpdateChannel", s.updateChannel))
	mux.Handle("POST /channels/{type}/{id}/query", s.api("GetOrCreateChannel", s.queryChannel))
	mux.Handle("POST /channels/{type}/{id}/message", s.api("SendMessage", s.sendMessage))
	mux.Handle("POST /channels/{type}/{id}/read", s.api("MarkRead", s.markRead))
	mux.Handle("/", s.api("Route", func(*call) (int, object, *APIError) {
		return 0, nil, refuse(16, "no such endpoint")
	}))
	return mux
}

// api makes an endpoint of a function that returns a status and an answer, or a
// refusal. Credentials are judged as for a socket; name is the service's name
// of the call, which its error messages carry.
func (s *Server) api(name string, serve func(*call) (int, object, *APIError)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		c := &call{Request: r}
		var refusal *APIError
		var err error
		if c.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
			if tooBig := (*http.MaxBytesError)(nil); !errors.As(err, &tooBig) {
				panic(http.ErrAbortHandler) // the client left
			}
			refusal = refuse(22, "the body is larger than 1 MiB")
		}
		who, denied := s.authenticate(r)
		if denied == nil {
			denied = who.allow(r.URL.Query().Get("user_id"))
		}
		if denied == nil && who.userID == "" && !who.server {
			denied = refuse(5, "user_id is missing")
		}
		c.who = who
		if refusal == nil {
			refusal = denied
		}
		seen := Entry{Kind: Request, Method: r.Method, Path: r.URL.Path, UserID: who.userID, Auth: who.auth,
			Token: who.fingerprint, Client: who.client, ConnectionID: r.URL.Query().Get("connection_id")}

		if fault, ok := s.failRequest(); ok {
			seen.Code, seen.Text = fault.Code, "fault"
			seen.Status = fault.write(w)
			s.journal.add(seen)
			return
		}
		var status int
		var answer object
		if refusal == nil {
			status, answer, refusal = serve(c)
		}
		duration := strconv.FormatFloat(float64(time.Since(began))/float64(time.Millisecond), 'f', 2, 64) + "ms"
		if refusal != nil {
			refusal = refusal.in(name)
			refusal.Duration = duration
			seen.Code, seen.Status, seen.Text = refusal.Code, refusal.StatusCode, refusal.Message
			s.journal.add(seen)
			writeJSON(w, refusal.StatusCode, refusal)
			return
		}
		seen.Status = status
		s.journal.add(seen)
		answer["duration"] = duration
		writeJSON(w, status, answer)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(encode(v))
}

// write sends the answer and returns its status.
func (a Answer) write(w http.ResponseWriter) int {
	if a.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(a.RetryAfter.Seconds()))))
	}
	status := a.Status
	if status < 200 || status > 599 { // no answer that net/http could send
		status = 0
	}
	if a.Code != 0 && a.Body == "" {
		e := APIError{Code: a.Code, Message: a.Message, StatusCode: status}.completed()
		writeJSON(w, e.StatusCode, e)
		return e.StatusCode
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if a.ContentType == "" {
		a.ContentType = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", a.ContentType)
	w.WriteHeader(status)
	io.WriteString(w, a.Body)
	return status
}

func (s *Server) getApp(c *call) (int, object, *APIError) {
	return http.StatusOK, object{"app": object{"name": "chatconn dev server", "disable_auth_checks": s.opts.DisableAuthChecks}}, nil
}

// forServers refuses everyone but an application's backend.
func (c *call) forServers() *APIError {
	if c.who.server {
		return nil
	}
	return refuse(17, "only a server token may do this")
}

// updateApp revokes everyone's tokens that were issued before a time; null
// undoes it.
func (s *Server) updateApp(c *call) (int, object, *APIError) {
	var in map[string]json.RawMessage
	if refusal := c.forServers(); refusal != nil {
		return 0, nil, refusal
	}
	if refusal := c.bind(&in); refusal != nil {
		return 0, nil, refusal
	}
	if refusal := s.revokeAsTold("", in); refusal != nil {
		return 0, nil, refusal
	}
	return http.StatusOK, object{}, nil
}

// revokeAsTold takes the time before which tokens are revoked out of the fields
// of an update; null undoes a revocation.
func (s *Server) revokeAsTold(userID string, fields map[string]json.RawMessage) *APIError {
	const field = "revoke_tokens_issued_before"
	raw, ok := fields[field]
	if !ok {
		return nil
	}
	var before time.Time // stays zero for null
	if json.Unmarshal(raw, &before) != nil {
		return refuse(4, field+" is not a time")
	}
	delete(fields, field)
	s.revoke(userID, before)
	return nil
}
