package devserver

import (
	"net/http"
	"time"
)

// faults is what is wrong with the server at present. Guarded by Server.mu.
type faults struct {
	refuse     bool
	silent     bool
	mute       chan struct{} // non-nil while HTTP is not answered; closed when that ends
	noHealth   bool
	bareErrors bool
	compress   bool
	slow       time.Duration
	dropAfter  int
	logins     failing[APIError]
	upgrades   failing[Answer]
	requests   failing[Answer]
}

// failing is the outcome of the next n tries; all of them if n is negative.
type failing[T any] struct {
	n int
	T T
}

func (f *failing[T]) take() (T, bool) {
	if f.n == 0 {
		var none T
		return none, false
	}
	if f.n > 0 {
		f.n--
	}
	return f.T, true
}

// Answer is an HTTP answer that a fault puts in the place of the true one.
type Answer struct {
	Status      int           // 0: the one that goes with Code, or 500
	Code        int           // of an API error body; 0: Body is sent as it stands
	Message     string        // of an API error body; empty: the usual one
	Body        string        // sent instead of an API error
	ContentType string        // of Body; empty: text/plain
	RetryAfter  time.Duration // Retry-After in whole seconds, rounded up; 0: no header
}

func (s *Server) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.silent
}

func (s *Server) compressing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.compress
}

// pause waits as long as Slow says; it reports whether nothing ended the wait.
func (s *Server) pause(gone <-chan struct{}) bool {
	s.mu.Lock()
	d := s.faults.slow
	s.mu.Unlock()
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
	case <-s.done:
	}
	return false
}

// mayAnswer holds a request back as the faults say; it reports whether the
// request is to be answered at all.
func (s *Server) mayAnswer(r *http.Request) bool {
	s.mu.Lock()
	mute := s.faults.mute
	s.mu.Unlock()
	if mute != nil {
		select {
		case <-mute:
		case <-s.done:
		case <-r.Context().Done():
		}
		return false
	}
	return s.pause(r.Context().Done())
}

func (s *Server) failUpgrade(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	answer, ok := s.faults.upgrades.take()
	s.mu.Unlock()
	if ok {
		s.journal.add(Entry{Kind: Refused, Method: r.Method, Path: r.URL.Path, Code: answer.Code, Status: answer.write(w), Text: "upgrade"})
	}
	return ok
}

func (s *Server) failHandshake() *APIError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.faults.logins.take(); ok {
		return e.completed()
	}
	return nil
}

func (s *Server) failRequest() (Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.requests.take()
}

func (s *Server) serveFault(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
