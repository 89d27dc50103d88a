package tokens

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// Claims is what a token says. A user's token has a UserID; a server's token
// has Server instead, and lets its bearer act as the app itself.
type Claims struct {
	UserID    string
	ExpiresAt time.Time // exp; zero: the token never expires
	IssuedAt  time.Time // iat; zero: absent, and revocations by time count it as too old
	Server    bool
}

// errNoSecret is returned by Sign and Verify: anyone can sign with nothing.
var errNoSecret = errors.New("tokens: the secret is empty")

// Sign makes a token and signs it with the app's secret (HS256). Its bytes are
// those of stream-chat-go's CreateToken for the same user and times. Times have
// seconds; what is finer is cut off.
//
// It is an error if the secret is empty, the claims name no user and not Server
// either, or both; if the user id is not UTF-8 or too long for a token; or if a
// time is before 1970 or after the year 9999. Specification: T7.
func Sign(secret []byte, claims Claims) (string, error) {
	switch {
	case len(secret) == 0:
		return "", errNoSecret
	case claims.UserID == "" && !claims.Server:
		return "", errors.New("tokens: the user id is empty")
	case claims.UserID != "" && claims.Server:
		return "", errors.New("tokens: a token is a user's or a server's, not both")
	case !utf8.ValidString(claims.UserID):
		return "", errors.New("tokens: the user id is not UTF-8")
	}
	payload := jwt.MapClaims{}
	if claims.Server {
		payload["server"] = true
	} else {
		payload["user_id"] = claims.UserID
	}
	if err := setTime(payload, "exp", claims.ExpiresAt); err != nil {
		return "", err
	}
	if err := setTime(payload, "iat", claims.IssuedAt); err != nil {
		return "", err
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, payload).SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("tokens: sign: %w", err)
	}
	if len(token) > maxSize {
		return "", fmt.Errorf("tokens: the user id is too long: the token would have %d bytes, and the limit is %d", len(token), maxSize)
	}
	return token, nil
}

func setTime(payload jwt.MapClaims, name string, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	seconds := t.Unix()
	if seconds < 0 || seconds > maxSeconds {
		return fmt.Errorf("tokens: %s is outside the years 1970 to 9999", name)
	}
	payload[name] = seconds
	return nil
}

// The codes of a [VerifyError], as the service answers them.
const (
	codeMalformed = 5
	codeExpired   = 40
	codeTooYoung  = 41
	codeFuture    = 42
	codeSignature = 43
)

// VerifyError says why a token was not accepted.
type VerifyError struct {
	// Code is the service's: 5 malformed, 40 expired, 41 not valid yet (nbf),
	// 42 issued in the future (iat), 43 bad signature.
	Code int
	// Reason says it in words. It contains nothing of the token.
	Reason string
	// Err is the cause, which wraps ErrInvalid, for a malformed token, else nil.
	Err error
}

// Error returns the reason and the code.
func (e *VerifyError) Error() string { return fmt.Sprintf("tokens: %s (code %d)", e.Reason, e.Code) }

// Unwrap returns Err.
func (e *VerifyError) Unwrap() error { return e.Err }

// parser is golang-jwt reduced to decoding and the signature. Without the list
// of methods it would take any algorithm. It must not validate the claims: it
// reads an exp of 9999999999999999999 as long ago, and an exp of 0 as none.
var parser = jwt.NewParser(
	jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
	jwt.WithStrictDecoding(),
	jwt.WithoutClaimsValidation(),
)

// Verify checks a token against the app's secret, as the service does, and
// returns what it says. Only HS256 is accepted.
//
// The error is a *VerifyError, or a plain one if the secret is empty. With the
// codes 40, 41 and 42, where the signature was good, the claims are returned as
// well. Claims count by their exact names. A token is expired from the second
// of its exp on; times beyond the year 9999 are read as its last second.
// Specification: T7.
func Verify(secret []byte, token string) (Claims, error) {
	if len(secret) == 0 {
		return Claims{}, errNoSecret
	}
	if _, err := checkText(token); err != nil {
		return Claims{}, malformed(err)
	}
	if strings.HasSuffix(token, "."+devSignature) {
		return Claims{}, &VerifyError{Code: codeSignature, Reason: "a development token has no signature"}
	}
	payload := jwt.MapClaims{}
	decoded, err := parser.ParseWithClaims(token, payload, func(*jwt.Token) (any, error) { return secret, nil })
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrTokenMalformed) && decoded.Method == nil: // with a method, only the signature was not base64
		return Claims{}, malformed(invalid("it is not base64 and JSON")) // the library's text quotes the token
	default:
		return Claims{}, &VerifyError{Code: codeSignature, Reason: "the signature is not valid, or not HS256 with this secret"}
	}
	return judge(payload, time.Now())
}

func malformed(err error) *VerifyError {
	return &VerifyError{Code: codeMalformed, Reason: strings.TrimPrefix(err.Error(), "tokens: "), Err: err}
}

// judge reads the claims of a well-signed token and holds their times against
// now. Of several faults it names the one that waiting does not heal.
func judge(payload jwt.MapClaims, now time.Time) (Claims, error) {
	var claims Claims
	var bad error
	claims.UserID = claim[string](payload, "user_id", &bad)
	claims.Server = claim[bool](payload, "server", &bad)
	claims.ExpiresAt = timeClaim(payload, "exp", &bad)
	claims.IssuedAt = timeClaim(payload, "iat", &bad)
	notBefore := timeClaim(payload, "nbf", &bad)
	if bad == nil && claims.UserID == "" && !claims.Server {
		bad = invalid("it names no user")
	}
	switch {
	case bad != nil:
		return Claims{}, malformed(bad)
	case !claims.ExpiresAt.IsZero() && !now.Before(claims.ExpiresAt):
		return claims, &VerifyError{Code: codeExpired, Reason: "the token is expired (exp)"}
	case now.Before(notBefore):
		return claims, &VerifyError{Code: codeTooYoung, Reason: "the token is not valid yet (nbf)"}
	case now.Before(claims.IssuedAt):
		return claims, &VerifyError{Code: codeFuture, Reason: "the token was issued in the future (iat)"}
	}
	return claims, nil
}

// claim returns a claim of type T, the zero value if it is absent; a claim of
// another type, null included, sets bad.
func claim[T any](payload jwt.MapClaims, name string, bad *error) (value T) {
	if v, ok := payload[name]; ok {
		if value, ok = v.(T); !ok {
			*bad = invalid("its %s has the wrong type", name)
		}
	}
	return value
}

// timeClaim returns a claim in seconds as a time, zero if it is absent. It is
// clamped to what a time.Time can hold before it becomes an integer.
func timeClaim(payload jwt.MapClaims, name string, bad *error) time.Time {
	if _, ok := payload[name]; !ok {
		return time.Time{}
	}
	seconds := claim[float64](payload, name, bad)
	return time.Unix(int64(min(max(seconds, 0), maxSeconds)), 0).UTC()
}
