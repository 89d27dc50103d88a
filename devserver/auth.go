package devserver

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// APIError is what the server answers when it refuses: the body of an HTTP
// answer, or the error object of a socket's last frame. StatusCode zero means
// the one that goes with the code.
type APIError struct {
	Code          int    `json:"code"`
	Message       string `json:"message"`
	StatusCode    int    `json:"StatusCode"`
	Duration      string `json:"duration"`
	MoreInfo      string `json:"more_info"`
	Details       []int  `json:"details"`
	Unrecoverable bool   `json:"unrecoverable,omitempty"`
}

// completed fills in what the caller left out.
func (e APIError) completed() *APIError {
	if e.StatusCode == 0 {
		e.StatusCode = statusOf(e.Code)
	}
	if e.Message == "" {
		e.Message = messages[e.Code]
	}
	if e.Duration == "" {
		e.Duration = "0.00ms"
	}
	if e.Details == nil {
		e.Details = []int{} // an empty array on the wire, not null
	}
	return &e
}

func refuse(code int, message string) *APIError {
	return APIError{Code: code, Message: message}.completed()
}

// in adds the name of the refused call, as the service does.
func (e *APIError) in(call string) *APIError {
	named := *e
	named.Message = call + " failed with error: " + strconv.Quote(e.Message)
	return &named
}

func statusOf(code int) int {
	switch code {
	case 2, 3, 5, 40, 41, 42, 43:
		return http.StatusUnauthorized
	case 9, 71:
		return http.StatusTooManyRequests
	case 16:
		return http.StatusNotFound
	case 17, 60, 70, 99, 107:
		return http.StatusForbidden
	case 22:
		return http.StatusRequestEntityTooLarge
	case 23, 48:
		return http.StatusRequestTimeout
	case -1:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

var messages = map[int]string{
	-1:  "internal error",
	2:   "api_key not valid",
	5:   "JWTAuth error: token contains an invalid number of segments",
	9:   "Too many requests",
	16:  "not found",
	17:  "not allowed",
	40:  "JWTAuth error: token is expired (exp)",
	41:  "JWTAuth error: token is not valid yet (nbf)",
	42:  "JWTAuth error: token used before issued (iat)",
	43:  "JWTAuth error: signature is not valid. Make sure the token is created using the secret for this API key",
	48:  "request timeout",
	71:  "too many connections",
	99:  "app suspended",
	107: "product suspended",
	111: "overloaded",
}

const revokedMessage = "JWTAuth error: This token has been revoked, please generate a new token"

// anonymousID is the user of everyone who logs in without a name, whatever id
// the client sends.
const anonymousID = "!anon"

// identity is who makes a request. On a refusal it holds what was learned.
type identity struct {
	userID      string // empty: a server, or unknown (DisableAuthChecks)
	server      bool   // a token of an application's backend, which may do anything
	anonymous   bool
	wish        string // of a guest: the id that was asked for
	auth        string // where the token was: "header" or "query"
	fingerprint string
	client      string
}

// authenticate judges the credentials of a socket or an API request: key, auth
// type and token, each from the header or the query. Specification: D1, T7, T8.
func (s *Server) authenticate(r *http.Request) (identity, *APIError) {
	query := r.URL.Query()
	either := func(name string) string { return cmp.Or(r.Header.Get(name), query.Get(name)) }

	var id identity
	id.client = either("X-Stream-Client")
	if name := ""; json.Unmarshal([]byte(id.client), &name) == nil {
		id.client = name // some clients quote it
	}
	token := r.Header.Get("Authorization")
	if token != "" {
		id.auth = "header"
	} else if token = query.Get("authorization"); token != "" {
		id.auth = "query"
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		id.fingerprint = hex.EncodeToString(sum[:4])
	}

	if either("api_key") != s.opts.APIKey {
		return id, refuse(2, "api_key not valid")
	}
	switch either("stream-auth-type") {
	case "anonymous":
		id.anonymous, id.userID = true, anonymousID
		return id, nil
	case "jwt":
	default:
		return id, refuse(2, "stream-auth-type missing or invalid")
	}

	claims, err := tokens.Verify(s.opts.Secret, token)
	id.userID, id.server = claims.UserID, claims.Server
	if s.opts.DisableAuthChecks {
		if token == "" || id.server {
			return id, nil
		}
		parsed, err := tokens.Parse(token)
		if err != nil {
			return id, refuse(5, "")
		}
		id.userID, id.wish = parsed.UserID(), s.wishOf(parsed.UserID())
		return id, nil
	}
	if err != nil {
		code := 5
		if refused := (*tokens.VerifyError)(nil); errors.As(err, &refused) {
			code = refused.Code
		}
		return id, refuse(code, "")
	}
	if id.userID == "" && !id.server {
		return id, refuse(5, "JWTAuth error: token has no user_id")
	}
	id.wish = s.wishOf(id.userID)
	return id, s.revoked(claims, serialOf(token))
}

// cutoff says which tokens of a user, or of everyone, are no longer good.
type cutoff struct {
	expired time.Time // ExpireTokens: tokens with an earlier iat, or none
	serial  uint64    // ExpireTokens: of the server's own tokens, up to this one
	revoked time.Time // RevokeTokens: tokens with an earlier iat, or none
}

func (s *Server) revoked(claims tokens.Claims, serial uint64) *APIError {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, who := range []string{"", claims.UserID} {
		c, ok := s.cutoffs[who]
		if !ok || who == "" && claims.Server {
			continue // a backend's token is not a user's
		}
		if !c.revoked.IsZero() && claims.IssuedAt.Before(c.revoked) {
			return refuse(40, revokedMessage)
		}
		if serial > 0 && serial <= c.serial || serial == 0 && claims.IssuedAt.Before(c.expired) {
			return refuse(40, "")
		}
	}
	return nil
}

// Token mints a token for a user; every call makes a new one. A ttl of 0 means
// Options.TokenTTL, a negative one makes a token that has expired already. The
// token carries iat and, as jti, a number by which [Server.ExpireTokens] tells
// tokens of the same second apart.
func (s *Server) Token(userID string, ttl time.Duration) string {
	if ttl == 0 {
		ttl = s.opts.TokenTTL
	}
	s.mu.Lock()
	s.serial++
	serial := s.serial
	s.mu.Unlock()

	now := time.Now()
	claims := object{"user_id": userID, "iat": now.Unix(), "jti": strconv.FormatUint(serial, 10)}
	if ttl != 0 {
		claims["exp"] = now.Add(ttl).Unix()
	}
	unsigned := jwtHeader + "." + base64.RawURLEncoding.EncodeToString(encode(claims))
	mac := hmac.New(sha256.New, s.opts.Secret)
	mac.Write([]byte(unsigned))
	return unsigned + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

const jwtHeader = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9" // {"alg":"HS256","typ":"JWT"}

// serialOf reads the number that [Server.Token] put into a verified token; 0 if
// it was minted elsewhere.
func serialOf(token string) uint64 {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return 0
	}
	var claims struct {
		Serial string `json:"jti"`
	}
	if json.Unmarshal(data, &claims) != nil {
		return 0
	}
	n, err := strconv.ParseUint(claims.Serial, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// allow checks that a request speaks for the user whom its token names, and
// adopts the request's user where the token names none. Some clients call a guest
// by the id that was asked for; the token tells who they are (protocol 2.3).
func (id *identity) allow(userID string) *APIError {
	switch {
	case id.anonymous || userID == "" || userID == id.userID || userID == id.wish:
		return nil
	case id.userID == "":
		id.userID = userID
		return nil
	}
	return refuse(5, "JWTAuth error: the token's user_id is not the user_id of the request")
}
