package chatconn_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
)

// hostilePeers is the table: kinds of peer, what each does, what must come of it.
// docs/hostile-peers.md is made of it.
var hostilePeers = []hostilePeer{
	{part: "The way to the peer", name: "nobody listens", dial: firstTwo("127.0.0.1:1", nil), ends: backsOff, cause: "dial: network", bound: atOnce, is: finds(syscall.ECONNREFUSED)},
	{name: "a host that no resolver knows", dial: firstTwo("", &net.DNSError{Err: "no such host", Name: "chat.invalid", IsNotFound: true}), ends: backsOff, cause: "dial: network", bound: atOnce,
		is: func(err error) bool { var e *net.DNSError; return errors.As(err, &e) && e.IsNotFound }},
	{name: "a resolver that times out", dial: firstTwo("", &net.DNSError{Err: "i/o timeout", Name: "chat.invalid", IsTimeout: true}), ends: backsOff, cause: "dial: network", bound: atOnce},
	{name: "a dial that never ends", dial: firstTwo("", nil), ends: backsOff, cause: "dial: network", bound: byAttempt, is: late},
	{name: "a reset when dialled", serve: func(v *victim) { v.reset() }, ends: backsOff, cause: "dial: network or upgrade: network", bound: atOnce},
	{name: "the end of the stream when dialled", serve: func(v *victim) { v.finish() }, ends: backsOff, cause: "upgrade: network", bound: atOnce},

	{part: "TLS", name: "silence before TLS", https: true, serve: (*victim).wait, ends: backsOff, cause: "dial: network", bound: byAttempt, is: late},
	{name: "silence within TLS", https: true, serve: func(v *victim) { v.say("\x16\x03\x03\x00\x7a\x02\x00"); v.wait() }, ends: backsOff, cause: "dial: network", bound: byAttempt, is: late},
	{name: "TLS byte by byte", https: true, serve: func(v *victim) { v.slowly("\x16\x03\x03\x40\x00\x02\x00\x3f\x00\x00") }, ends: backsOff, cause: "dial: network", bound: byAttempt, is: late},
	{name: "a reset within TLS", https: true, serve: func(v *victim) { v.byte(); v.reset() }, ends: backsOff, cause: "dial: network", bound: atOnce},
	{name: "the end of the stream within TLS", https: true, serve: func(v *victim) { v.byte(); v.finish() }, ends: backsOff, cause: "dial: network", bound: atOnce},
	{name: "an alert in place of TLS", https: true, serve: func(v *victim) { v.byte(); v.say("\x15\x03\x03\x00\x02\x02\x28"); v.wait() }, ends: backsOff, cause: "dial: tls", bound: atOnce},
	{name: "plain text on the port of TLS", https: true, serve: func(v *victim) { v.byte(); v.say("HTTP/1.1 400 Bad Request\r\n\r\n"); v.wait() }, ends: backsOff, cause: "dial: tls", bound: atOnce},
	{name: "a handshake message of 16 MiB in TLS", https: true, memory: true, serve: func(v *victim) {
		v.byte()
		v.say("\x16\x03\x03\x00\x04\x02\xff\xff\xff")
		v.upTo(128<<20, "\x16\x03\x03\x40\x00"+strings.Repeat("x", 16<<10))
	}, ends: backsOff, cause: "dial: tls", bound: atOnce},
	{name: "empty TLS records without end", https: true, serve: func(v *victim) { v.byte(); v.upTo(128<<20, "\x16\x03\x03\x00\x00") }, ends: backsOff, cause: "dial: tls", bound: atOnce},
	{name: "a certificate that it signed itself", https: true, tls: certificate(true, nil), ends: backsOff, cause: "dial: tls", bound: atOnce,
		is: func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
	{name: "a certificate for another host", https: true, tls: certificate(false, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }), ends: backsOff, cause: "dial: tls", bound: atOnce,
		is: func(err error) bool { return errors.As(err, new(x509.HostnameError)) }},
	{name: "a certificate that has expired", https: true, tls: certificate(false, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), ends: backsOff, cause: "dial: tls", bound: atOnce,
		is: func(err error) bool {
			var e x509.CertificateInvalidError
			return errors.As(err, &e) && e.Reason == x509.Expired
		}},
	{name: "a certificate of the future", https: true, tls: certificate(false, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), ends: backsOff, cause: "dial: tls", bound: atOnce},
	{name: "TLS 1.0", https: true, tls: version(tls.VersionTLS10), ends: backsOff, cause: "dial: tls", bound: atOnce},
	{name: "TLS 1.1", https: true, tls: version(tls.VersionTLS11), ends: backsOff, cause: "dial: tls", bound: atOnce},
	{name: "silence in the upgrade, over TLS", https: true, tls: certificate(false, nil), serve: (*victim).wait, ends: backsOff, cause: "upgrade: network", bound: byAttempt, is: late},

	{part: "A proxy on the way", name: "an HTTP proxy that is silent", proxy: "http", serve: (*victim).wait, ends: backsOff, cause: "dial: network", bound: byAttempt, is: late},
	{name: "an HTTP proxy that wants a password", proxy: "http", serve: func(v *victim) { v.answer(407, "no") }, ends: backsOff, cause: "dial: network", bound: atOnce},
	{name: "an HTTP proxy with an endless header", proxy: "http", memory: true, serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 200 OK\r\nX: "); v.upTo(128<<20, "a") }, ends: backsOff, cause: "dial: network", bound: atOnce},
	{name: "an HTTP proxy that speaks first", proxy: "http", serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 200 OK\r\n\r\nhello"); v.wait() }, ends: backsOff, cause: "dial: network", bound: atOnce},
	{name: "a SOCKS proxy that speaks HTTP", proxy: "socks5", serve: func(v *victim) { v.say("HTTP/1.1 400 Bad Request\r\n\r\n"); v.wait() }, ends: backsOff, cause: "dial: network", bound: atOnce},
	{name: "a SOCKS proxy that refuses", proxy: "socks5", serve: func(v *victim) { v.say("\x05\xff"); v.wait() }, ends: backsOff, cause: "dial: network", bound: atOnce},

	{part: "The upgrade", name: "silence in the upgrade", serve: func(v *victim) { v.ask(); v.wait() }, ends: backsOff, cause: "upgrade: network", bound: byAttempt, is: late},
	{name: "a peer that never reads", serve: func(v *victim) { v.deaf() }, ends: backsOff, cause: "upgrade: network", bound: byAttempt, is: late},
	{name: "a status line byte by byte", serve: func(v *victim) { v.ask(); v.slowly("HTTP/1.1 101 S") }, ends: backsOff, cause: "upgrade: network", bound: byAttempt, is: late},
	{name: "a header byte by byte", serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 101 Switching Protocols\r\n"); v.slowly("X: a") }, ends: backsOff, cause: "upgrade: network", bound: byAttempt, is: late},
	{name: "a reset in the upgrade", serve: func(v *victim) { v.ask(); v.reset() }, ends: backsOff, cause: "upgrade: network", bound: atOnce},
	{name: "the end of the stream in the upgrade", serve: func(v *victim) { v.ask(); v.finish() }, ends: backsOff, cause: "upgrade: network", bound: atOnce},
	{name: "half a header and the end", serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 101 Switching Protocols\r\nUpgr"); v.finish() }, ends: backsOff, cause: "upgrade: network", bound: atOnce},
	{name: "128 MiB of headers", memory: true, serve: func(v *victim) {
		v.ask()
		v.say("HTTP/1.1 101 Switching Protocols\r\n")
		v.upTo(128<<20, "X-Header: value\r\n")
	}, ends: backsOff, cause: "upgrade: oversize", bound: atOnce},
	{name: "one endless header", memory: true, serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 101 Switching Protocols\r\nX: "); v.upTo(128<<20, "a") }, ends: backsOff, cause: "upgrade: oversize", bound: atOnce},
	{name: "an endless status line", memory: true, serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 101 "); v.upTo(128<<20, "a") }, ends: backsOff, cause: "upgrade: oversize", bound: atOnce},
	{name: "a header that is folded without end", memory: true, serve: func(v *victim) {
		v.ask()
		v.say("HTTP/1.1 101 Switching Protocols\r\nX: a\r\n")
		v.upTo(128<<20, " a\r\n")
	}, ends: backsOff, cause: "upgrade: oversize", bound: atOnce},
	{name: "100 Continue without end", memory: true, serve: func(v *victim) { v.ask(); v.upTo(128<<20, "HTTP/1.1 100 Continue\r\n\r\n") }, ends: backsOff, cause: "upgrade: refused, HTTP 100", bound: atOnce},
	{name: "103 Early Hints without end", memory: true, serve: func(v *victim) { v.ask(); v.upTo(128<<20, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") }, ends: backsOff, cause: "upgrade: refused, HTTP 103", bound: atOnce},
	{name: "a wrong Sec-WebSocket-Accept", serve: agrees("Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA="), ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "no Sec-WebSocket-Accept", serve: agrees("Sec-WebSocket-Accept:"), ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "no Upgrade", serve: agrees("Upgrade:"), ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "an upgrade to something else", serve: agrees("Upgrade: h2c"), ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "no Connection", serve: agrees("Connection:"), ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "compression that nobody offered, and a bomb of 1,000 to one", memory: true, serve: func(v *victim) {
		v.agree("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover")
		_, _ = v.Write(bomb())
		v.wait()
	}, ends: backsOff, cause: "upgrade: unoffered", bound: atOnce},
	{name: "an extension that does not exist", serve: agrees("Sec-WebSocket-Extensions: x-evil"), ends: backsOff, cause: "upgrade: unoffered", bound: atOnce},
	{name: "an extension in a second header", serve: agrees("Sec-WebSocket-Extensions: ", "Sec-WebSocket-Extensions: permessage-deflate"), ends: backsOff, cause: "upgrade: unoffered", bound: atOnce},
	{name: "a subprotocol that nobody offered", serve: agrees("Sec-WebSocket-Protocol: chat"), ends: backsOff, cause: "upgrade: unoffered", bound: atOnce},
	{name: "HTTP/2", serve: func(v *victim) {
		v.ask()
		v.say("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\xff\xff")
		v.finish()
	}, ends: backsOff, cause: "upgrade: network", bound: atOnce},
	{name: "the preface of HTTP/2", serve: func(v *victim) { v.ask(); v.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); v.wait() }, ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "HTTP/1.0", serve: func(v *victim) { v.ask(); v.say("HTTP/1.0 200 OK\r\n\r\n"); v.finish() }, ends: backsOff, cause: "upgrade: refused, HTTP 200", bound: atOnce},
	{name: "an upgrade of HTTP/1.0", serve: func(v *victim) { v.version = "1.0"; agrees()(v) }, ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "HTTP/9.9", serve: func(v *victim) { v.ask(); v.say("HTTP/9.9 101 Yes\r\n\r\n"); v.wait() }, ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "a greeting of SMTP", serve: func(v *victim) { v.ask(); v.say("220 mail ESMTP\r\n"); v.wait() }, ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "the request itself, echoed", serve: func(v *victim) { v.ask(); v.say("%s", v.head); v.wait() }, ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "101 with a body", serve: func(v *victim) { v.agree("Content-Length: 6"); v.say("<html>"); v.wait() }, ends: backsOff, cause: "hello: malformed", bound: atOnce},
	{name: "200", serve: func(v *victim) { v.answer(200, "<html>Please log in to the wireless network.") }, ends: backsOff, cause: "upgrade: refused, HTTP 200", bound: atOnce},
	{name: "a redirect to another host", serve: func(v *victim) { v.answer(302, "", "Location: http://"+otherHost+"/connect?token="+v.token()) }, ends: backsOff, cause: "upgrade: refused, HTTP 302", bound: atOnce},
	{name: "a redirect to itself", serve: func(v *victim) { v.answer(301, "", "Location: /connect?again") }, ends: backsOff, cause: "upgrade: refused, HTTP 301", bound: atOnce},
	{name: "a redirect to another scheme", serve: func(v *victim) { v.answer(308, "", "Location: gopher://"+otherHost+"/") }, ends: backsOff, cause: "upgrade: refused, HTTP 308", bound: atOnce},

	{part: "Refusals", name: "401 without a body", serve: func(v *victim) { v.answer(401, "") }, ends: backsOff, cause: "upgrade: refused, HTTP 401", bound: atOnce},
	{name: "401 that says expired", serve: func(v *victim) { v.answer(401, `{"code":40,"StatusCode":401}`) }, ends: renews, cause: "API error 40, status 401", bound: atOnce, is: finds(chatconn.ErrTokenExpired)},
	{name: "401 that says expired in another case", serve: func(v *victim) { v.answer(401, `{"Code":40,"CODE":40}`) }, ends: backsOff, cause: "upgrade: refused, HTTP 401", bound: atOnce},
	{name: "401 that quotes the token", serve: func(v *victim) { v.ask(); v.answer(401, `{"code":-1,"message":"bad `+v.token()+`"}`) }, ends: denied, cause: "API error -1, status 401", bound: atOnce},
	{name: "403 of a proxy, as HTML", serve: func(v *victim) { v.answer(403, "<html>Forbidden") }, ends: backsOff, cause: "upgrade: refused, HTTP 403", bound: atOnce},
	{name: "403 of the service", serve: func(v *victim) { v.answer(403, `{"code":17,"message":"no","StatusCode":403}`) }, ends: denied, cause: "API error 17, status 403", bound: atOnce},
	{name: "404 of a proxy", serve: func(v *victim) { v.answer(404, "404 page not found") }, ends: backsOff, cause: "upgrade: refused, HTTP 404", bound: atOnce},
	{name: "404 of the service", serve: func(v *victim) { v.answer(404, `{"code":16,"StatusCode":404}`) }, ends: denied, cause: "API error 16, status 404", bound: atOnce},
	{name: "407", serve: func(v *victim) { v.answer(407, "", "Proxy-Authenticate: Basic") }, ends: backsOff, cause: "upgrade: refused, HTTP 407", bound: atOnce},
	{name: "407 without a reason", serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 407\r\n\r\n"); v.finish() }, ends: backsOff, cause: "upgrade: refused, HTTP 407", bound: atOnce},
	{name: "429 without a word", serve: func(v *victim) { v.answer(429, "") }, ends: backsOff, cause: "upgrade: refused, HTTP 429", bound: atOnce},
	{name: "429 of the service", serve: func(v *victim) { v.answer(429, `{"code":9,"StatusCode":429}`) }, ends: backsOff, cause: "API error 9, status 429", bound: atOnce},
	{name: "500 of the service", serve: func(v *victim) { v.answer(500, `{"code":-1,"StatusCode":500}`) }, ends: backsOff, cause: "API error -1, status 500", bound: atOnce},
	{name: "500 without a body", serve: func(v *victim) { v.answer(500, "") }, ends: backsOff, cause: "upgrade: refused, HTTP 500", bound: atOnce},
	{name: "503 of a proxy", serve: func(v *victim) { v.answer(503, "<html>Service Unavailable") }, ends: backsOff, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "an error that no retry cures", serve: func(v *victim) { v.answer(500, `{"code":9,"unrecoverable":true}`) }, ends: denied, cause: "API error 9, status 500", bound: atOnce},
	{name: "status 000", serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 000 Nothing\r\n\r\n"); v.finish() }, ends: backsOff, cause: "upgrade: refused", bound: atOnce},
	{name: "status 999", serve: func(v *victim) { v.answer(999, "") }, ends: backsOff, cause: "upgrade: refused, HTTP 999", bound: atOnce},
	{name: "Retry-After that is negative", serve: retryAfter("-7"), ends: backsOff, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "Retry-After that is past", serve: retryAfter("Wed, 21 Oct 2015 07:28:00 GMT"), ends: backsOff, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "Retry-After that is no time", serve: retryAfter("soon; 5,"), ends: backsOff, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "Retry-After of 1e300", serve: retryAfter("1e300"), ends: backsOff, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "Retry-After of more than 64 bits", serve: retryAfter(strings.Repeat("9", 40)), ends: backsOff, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "Retry-After of 300 years", serve: retryAfter("9460800000"), ends: obeys, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "Retry-After in the year 9999", serve: retryAfter("Fri, 31 Dec 9999 23:59:59 GMT"), ends: obeys, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "a header with control characters", serve: retryAfter("5\x01\x1b[2J"), ends: backsOff, cause: "upgrade: malformed", bound: atOnce},
	{name: "1,000 cookies", serve: func(v *victim) { v.answer(503, "", strings.Repeat("Set-Cookie: a=b; Path=/\r\n", 1000)+"X: y") }, ends: backsOff, cause: "upgrade: refused, HTTP 503", bound: atOnce},
	{name: "an error body without end, in chunks", memory: true, serve: func(v *victim) {
		v.ask()
		v.say("HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n")
		v.upTo(128<<20, "400\r\n"+strings.Repeat("a", 1024)+"\r\n")
	}, ends: backsOff, cause: "upgrade: refused, HTTP 502", bound: atOnce},
	{name: "an error body of 128 MiB", memory: true, serve: func(v *victim) {
		v.ask()
		v.say("HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n", 128<<20)
		v.upTo(128<<20-1, "a")
	}, ends: backsOff, cause: "upgrade: refused, HTTP 502", bound: atOnce},
	{name: "an error body that is a gzip bomb", memory: true, serve: func(v *victim) { v.ask(); v.answer(502, gzipBomb(), "Content-Encoding: gzip") }, ends: backsOff, cause: "upgrade: refused, HTTP 502", bound: atOnce},
	{name: "an error body that is cut off", serve: func(v *victim) {
		v.ask()
		v.say("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 100\r\n\r\n{\"code\":40")
		v.finish()
	}, ends: backsOff, cause: "upgrade: refused, HTTP 502", bound: atOnce},
	{name: "an error body byte by byte", serve: func(v *victim) { v.ask(); v.say("HTTP/1.1 502 Bad Gateway\r\n\r\n"); v.slowly("ab") }, ends: backsOff, cause: "upgrade: refused, HTTP 502", bound: byAttempt},
	{name: "chunks of 2^62 bytes", serve: func(v *victim) {
		v.ask()
		v.say("HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n4000000000000000\r\nabc")
		v.finish()
	}, ends: backsOff, cause: "upgrade: refused, HTTP 502", bound: atOnce},
	{name: "an error body 10,000 levels deep", serve: func(v *victim) { v.answer(403, deep) }, ends: backsOff, cause: "upgrade: refused, HTTP 403", bound: atOnce},
	{name: "an error with a code of 1e999", serve: func(v *victim) { v.answer(403, `{"code":1e999}`) }, ends: backsOff, cause: "upgrade: refused, HTTP 403", bound: atOnce},
	{name: "an error with two codes", serve: func(v *victim) { v.answer(401, `{"code":17,"code":40}`) }, ends: renews, cause: "API error 40, status 401", bound: atOnce},

	{part: "Before the hello", name: "silence before the hello", serve: func(v *victim) { v.agree(); v.wait() }, ends: backsOff, cause: "hello: network", bound: byAttempt, is: late},
	{name: "pings and no hello", memory: true, serve: func(v *victim) { v.agree(); go v.wait(); v.flood(-1, frame(ping, "x")) }, ends: backsOff, cause: "hello: network", bound: byAttempt, is: late},
	{name: "health checks without an id", memory: true, serve: func(v *victim) {
		v.agree()
		go v.wait()
		v.flood(-1, frame(text, `{"type":"health.check","connection_id":""}`))
	}, ends: backsOff, cause: "hello: network", bound: byAttempt, is: late},
	{name: "half a frame and silence, before the hello", serve: func(v *victim) { v.agree(); v.say("\x81\x7e\x01"); v.wait() }, ends: backsOff, cause: "hello: network", bound: byAttempt, is: late},
	{name: "the end of the stream before the hello", serve: func(v *victim) { v.agree(); v.finish() }, ends: backsOff, cause: "hello: closed, close code 1006", bound: atOnce, is: finds(io.ErrUnexpectedEOF)},
	{name: "a reset before the hello", serve: func(v *victim) { v.agree(); v.reset() }, ends: backsOff, cause: "hello: network", bound: atOnce},
	{name: "a close and no error frame", serve: func(v *victim) { v.agree(); v.frame(closing, "\x03\xf0policy"); v.wait() }, ends: backsOff, cause: "hello: closed, close code 1008", bound: atOnce},
	{name: "an error frame and no close", serve: func(v *victim) { v.agree(); v.frame(text, `{"error":{"code":9,"StatusCode":429}}`); v.wait() }, ends: backsOff, cause: "API error 9, status 429", bound: atOnce},
	{name: "an error frame for good, and no close", serve: func(v *victim) { v.agree(); v.frame(text, `{"error":{"code":2,"StatusCode":401}}`); v.wait() }, ends: denied, cause: "API error 2, status 401", bound: atOnce},
	{name: "a connection id of 1 MiB with line breaks", memory: true, serve: func(v *victim) {
		v.agree()
		v.frame(text, `{"type":"health.check","connection_id":"`+strings.Repeat(`\r\nX-Injected: 1`, 60_000)+`"}`)
		v.wait()
	}, ends: backsOff, cause: "hello: malformed", bound: atOnce},
	{name: "a user of a million empty arrays in the hello", memory: true, serve: func(v *victim) {
		v.agree()
		v.frame(text, `{"type":"health.check","connection_id":"id","me":{"id":"john","a":[`+strings.Repeat(`[],`, 340_000)+`0]}}`)
		v.stay()
	}, ends: stays, bound: never},
	{name: "events before the hello", serve: func(v *victim) {
		v.agree()
		v.flood(1000, frame(text, fine))
		v.frame(text, `{"type":"health.check","connection_id":"id"}`)
		v.stay()
	}, ends: stays, bound: never},
	{name: "nonsense before the hello", serve: func(v *victim) {
		v.agree()
		for _, f := range nonsense {
			v.frame(text, f)
		}
		v.frame(text, `{"type":"health.check","connection_id":"id"}`)
		v.stay()
	}, ends: stays, bound: never},

	{part: "On the open socket: what RFC 6455 forbids", name: "a masked frame", serve: frames([]byte{text, 0x82, 1, 2, 3, 4, 'x', 'y'}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a compressed frame that nobody agreed on", memory: true, serve: onSocket(func(v *victim) { _, _ = v.Write(bomb()); v.wait() }), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "the reserved bit RSV2", serve: frames([]byte{text | 0x20, 1, 'x'}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "the reserved bit RSV3", serve: frames([]byte{text | 0x10, 1, 'x'}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "the reserved opcode 3", serve: frames([]byte{0x83, 0}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "the reserved opcode 11", serve: frames([]byte{0x8b, 0}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a ping of 126 bytes", serve: frames(frame(ping, strings.Repeat("x", 126))), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a ping in fragments", serve: frames([]byte{ping &^ 0x80, 1, 'x'}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a continuation of nothing", serve: frames([]byte{0x80, 1, 'x'}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a message within a message", serve: frames([]byte{text &^ 0x80, 1, '{', text, 1, '}'}), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a frame of 2^62 bytes", memory: true, serve: onSocket(func(v *victim) { v.say("\x81\x7f\x40\x00\x00\x00\x00\x00\x00\x00"); v.upTo(128<<20, "a") }), ends: backsOff, cause: "open: oversize", bound: atOnce},
	{name: "a frame of 2^64 - 1 bytes", serve: frames([]byte("\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff")), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a message of 1 MiB and one byte", memory: true, serve: frames(frame(text, strings.Repeat("a", 1<<20+1))), ends: backsOff, cause: "open: oversize", bound: atOnce},
	{name: "a binary message of 128 MiB", memory: true, serve: onSocket(func(v *victim) { v.say("\x82\x7f\x00\x00\x00\x00\x08\x00\x00\x00"); v.upTo(128<<20-1, "a") }), ends: backsOff, cause: "open: oversize", bound: atOnce},
	{name: "fragments without end", memory: true, serve: onSocket(func(v *victim) { v.say("\x01\x00"); v.upTo(128<<20, "\x00\x7d"+strings.Repeat("a", 125)) }), ends: backsOff, cause: "open: oversize", bound: atOnce},
	{name: "a message byte by byte", serve: onSocket(func(v *victim) { go v.wait(); v.slowly("\x81\x7e\xff\xff{") }), ends: silenced, cause: "open: silent", bound: byHealth},
	{name: "a close with a code that no frame may carry", serve: frames(frame(closing, "\x03\xed")), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a close with code 0", serve: frames(frame(closing, "\x00\x00")), ends: backsOff, cause: "open: malformed", bound: atOnce},
	{name: "a close of one byte", serve: frames(frame(closing, "\x03")), ends: backsOff, cause: "open: closed, close code 1005 or open: malformed", bound: atOnce},
	{name: "a close whose reason is not UTF-8", serve: frames(frame(closing, "\x03\xe8\xff\xfe")), ends: backsOff, cause: "open: malformed", bound: atOnce},

	{part: "On the open socket: what ends it", name: "a close without a code", serve: frames(frame(closing, "")), ends: backsOff, cause: "open: closed, close code 1005", bound: atOnce},
	{name: "a normal close, and no end", serve: frames(frame(closing, "\x03\xe8")), ends: backsOff, cause: "open: closed, close code 1000", bound: atOnce},
	{name: "a close with code 4999 and control characters", serve: frames(frame(closing, "\x13\x87\x1b[2J\r\nX: y")), ends: backsOff, cause: "open: closed, close code 4999", bound: atOnce},
	{name: "a close that quotes the token", serve: onSocket(func(v *victim) { v.frame(closing, "\x03\xf0"+v.token()[:min(123, len(v.token()))]); v.wait() }), ends: backsOff, cause: "open: closed, close code 1008", bound: atOnce},
	{name: "a close and then an error frame", serve: frames(frame(closing, "\x03\xf3"), frame(text, `{"error":{"code":40}}`)), ends: backsOff, cause: "open: closed, close code 1011", bound: atOnce},
	{name: "an error frame, then a close", serve: frames(frame(text, `{"error":{"code":40,"StatusCode":401}}`), frame(closing, "\x03\xe8")), ends: renews, cause: "API error 40, status 401", bound: atOnce, is: finds(chatconn.ErrTokenExpired)},
	{name: "an error frame, then nothing", serve: frames(frame(text, `{"type":"connection.error","error":{"code":40,"StatusCode":401}}`)), ends: renews, cause: "API error 40, status 401", bound: atOnce},
	{name: "an error frame for good on the open socket", serve: frames(frame(text, `{"error":{"code":17,"StatusCode":403}}`)), ends: denied, cause: "API error 17, status 403", bound: atOnce},
	{name: "an error frame without an error", serve: frames(frame(text, `{"type":"connection.error"}`)), ends: backsOff, cause: "open: told", bound: atOnce},
	{name: "an error frame of nearly 1 MiB", memory: true, serve: frames(frame(text, `{"error":{"code":9,"message":"`+strings.Repeat(`\u001b`, 170_000)+`"}}`)), ends: backsOff, cause: "API error 9, status 0", bound: atOnce},
	{name: "a reset on the open socket", serve: onSocket(func(v *victim) { v.reset() }), ends: backsOff, cause: "open: network", bound: atOnce},
	{name: "the end of the stream on the open socket", serve: onSocket((*victim).finish), ends: backsOff, cause: "open: closed, close code 1006", bound: atOnce},
	{name: "half a frame and the end", serve: onSocket(func(v *victim) { v.say("\x81\x05{"); v.finish() }), ends: backsOff, cause: "open: closed, close code 1006", bound: atOnce},
	{name: "silence after the hello", serve: onSocket((*victim).wait), ends: silenced, cause: "open: silent", bound: byHealth},
	{name: "half a frame and silence", serve: onSocket(func(v *victim) { v.say("\x81\x7e\x01\x00{"); v.wait() }), ends: silenced, cause: "open: silent", bound: byHealth},
	{name: "pings to a client whose answers it never reads", memory: true, serve: onSocket(func(v *victim) {
		_ = v.Conn.(*net.TCPConn).SetReadBuffer(64 << 10) // else the kernel takes megabytes of answers
		v.flood(-1, frame(ping, strings.Repeat("x", 125)))
	}), ends: backsOff, cause: "open: network or open: silent", bound: byWrite},

	{part: "On the open socket: what changes nothing", name: "text that is no event", serve: onSocket(func(v *victim) {
		for _, f := range nonsense {
			v.frame(text, f)
		}
		v.stay()
	}), ends: stays, bound: never},
	{name: "JSON 10,000 levels deep", serve: harmless(frame(text, deep), frame(text, `{"type":"x","a":`+deep+`}`)), ends: stays, bound: never},
	{name: "keys that come twice, or in another case", serve: harmless(frame(text, `{"type":"fine?","type":"x"}`), frame(text, `{"Type":"fine","TYPE":"fine"}`), frame(text, `{"Error":{"code":40},"error":null}`), frame(text, `{"type":"x","error":{"code":40}}`)), ends: stays, bound: never},
	{name: "numbers of 100,000 digits", serve: harmless(frame(text, `{"type":"x","n":`+strings.Repeat("9", 100_000)+`}`), frame(text, `{"type":"x","created_at":1e999999}`)), ends: stays, bound: never},
	{name: "text that is not UTF-8", serve: harmless(frame(text, "{\"type\":\"x\xff\xfe\"}"), frame(text, "\xff\xfe"), frame(text, "{\"type\":\"\xed\xa0\x80\"}")), ends: stays, bound: never},
	{name: "binary messages", serve: harmless(frame(binary, `{"type":"fine?"}`), frame(binary, `{"error":{"code":40}}`), frame(binary, "")), ends: stays, bound: never},
	{name: "a message in 10^6 fragments of one byte", memory: true, listen: true, serve: onSocket(func(v *victim) {
		v.say("\x01\x01{")
		v.flood(1_000_000, []byte{0, 1, ' '})
		v.say("\x80\x01}")
		v.stay()
	}), ends: stays, bound: never},
	{name: "a message in 10^6 empty fragments", memory: true, serve: onSocket(func(v *victim) {
		v.say("\x01\x01{")
		v.flood(1_000_000, []byte{0, 0})
		v.say("\x80\x01}")
		v.stay()
	}), ends: stays, bound: never},
	{name: "a second hello, with another id", serve: harmless(frame(text, strings.Replace(welcome, "%s", "other", 1))), ends: stays, bound: never, use: (*played).keepsSession},
	{name: "a hello for another user", serve: func(v *victim) {
		v.agree()
		v.frame(text, `{"type":"health.check","connection_id":"id","me":{"id":"mary"}}`)
		v.stay()
	}, ends: stays, bound: never, use: func(p *played) {
		if u, ok := p.conn.CurrentUser(); !ok || u.ID != "john" {
			p.used = "the current user is " + u.ID
		}
	}},
	{name: "a connection id with line breaks", serve: func(v *victim) {
		if !strings.HasPrefix(v.ask(), "GET /connect?") {
			v.good()
			return
		}
		v.agree()
		v.frame(text, `{"type":"health.check","connection_id":"id\r\nX-Injected: 1\r\n\r\n"}`)
		v.stay()
	}, ends: stays, bound: never, use: func(p *played) { p.request(200, "") }},
	// What a reader that lags may hold is for O2 to say.
	{name: "300,000 events", memory: true, listen: true, most: 20 << 20, serve: onSocket(func(v *victim) { v.flood(300_000, frame(text, `{"type":"x"}`)); v.stay() }), ends: stays, bound: never},
	{name: "a million events that nobody reads", memory: true, serve: onSocket(func(v *victim) { v.flood(1_000_000, frame(text, `{"type":"x"}`)); v.stay() }), ends: stays, bound: never},
	{name: "100 events of nearly 1 MiB", memory: true, serve: onSocket(func(v *victim) {
		v.flood(100/slow, frame(text, `{"type":"x","a":"`+strings.Repeat("a", 1<<20-30)+`"}`))
		v.stay()
	}), ends: stays, bound: never},
	{name: "a million health checks", memory: true, serve: onSocket(func(v *victim) { v.flood(1_000_000, frame(text, `{"type":"health.check"}`)); v.stay() }), ends: stays, bound: never},
	{name: "a million pongs", memory: true, serve: onSocket(func(v *victim) { v.flood(1_000_000, frame(pong, "x")); v.stay() }), ends: stays, bound: never},
	{name: "200,000 pings", memory: true, serve: onSocket(func(v *victim) {
		go func() { v.flood(200_000, frame(ping, "x")); v.frame(text, fine) }()
		v.live()
	}), ends: stays, bound: never},

	{part: "Answers to API requests", name: "an API answer with a body without end", memory: true, serve: api(func(v *victim) { v.say("HTTP/1.1 200 OK\r\n\r\n"); v.upTo(128<<20, "a") }), ends: stays, bound: byCaller, use: func(p *played) { p.request(200, "aaaa") }},
	{name: "an API error with a body without end", memory: true, serve: api(func(v *victim) { v.say("HTTP/1.1 401 No\r\n\r\n"); v.upTo(128<<20, "a") }), ends: stays, bound: byCaller, use: func(p *played) { p.request(401, "aaaa") }},
	{name: "an API error that is a gzip bomb", memory: true, serve: api(func(v *victim) { v.answer(401, gzipBomb(), "Content-Encoding: gzip") }), ends: stays, bound: byCaller, use: func(p *played) { p.request(401, "\x00\x00") }},
	{name: "an API answer with 128 MiB of headers", memory: true, serve: api(func(v *victim) { v.say("HTTP/1.1 200 OK\r\n"); v.upTo(128<<20, "X-Header: value\r\n") }), ends: stays, bound: byCaller, use: func(p *played) { p.request(0, "") }},
	{name: "an API answer with one endless header", memory: true, serve: api(func(v *victim) { v.say("HTTP/1.1 200 OK\r\nX: "); v.upTo(128<<20, "a") }), ends: stays, bound: byCaller, use: func(p *played) { p.request(0, "") }},
	{name: "100 Continue without end, to an API request", memory: true, serve: api(func(v *victim) { v.upTo(128<<20, "HTTP/1.1 100 Continue\r\n\r\n") }), ends: stays, bound: byCaller, use: func(p *played) { p.request(0, "") }},
	{name: "no answer to an API request", serve: api((*victim).wait), ends: stays, bound: byCaller, use: func(p *played) { p.requestIn(200*time.Millisecond, 0, "") }},
	{name: "a reset in place of an API answer", serve: api((*victim).reset), ends: stays, bound: byCaller, use: func(p *played) { p.request(0, "") }},
	{name: "an API answer that is cut off", serve: api(func(v *victim) { v.say("HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\n{\"code\":40"); v.finish() }), ends: stays, bound: byCaller, use: func(p *played) { p.request(401, `{"code":40`) }},
	{name: "an API redirect to another host", serve: api(func(v *victim) { v.answer(307, "", "Location: http://"+otherHost+"/") }), ends: stays, bound: byCaller, use: func(p *played) { p.request(307, "") }},
	{name: "an API answer that is not HTTP", serve: api(func(v *victim) { v.say("220 mail ESMTP\r\n\r\n"); v.wait() }), ends: stays, bound: byCaller, use: func(p *played) { p.request(0, "") }},
	{name: "a guest of 128 MiB", memory: true, serve: api(func(v *victim) {
		v.say("HTTP/1.1 201 Created\r\n\r\n{\"user\":{\"id\":\"")
		v.upTo(128<<20, "a")
	}), ends: stays, bound: byCaller, use: (*played).noGuest},
	{name: "a guest of a million empty arrays", memory: true, serve: api(func(v *victim) {
		v.say("HTTP/1.1 201 Created\r\n\r\n{\"user\":{\"id\":\"g\",\"a\":[%s0]},\"access_token\":\"\"}", strings.Repeat("[],", 340_000))
		v.finish()
	}), ends: stays, bound: byCaller, use: (*played).noGuest},
	{name: "a guest without a name", serve: api(func(v *victim) { v.answer(201, `{"user":null,"access_token":"a.b.c"}`) }), ends: stays, bound: byCaller, use: (*played).noGuest},
}

// nonsense are text frames that say nothing.
var nonsense = []string{
	"", " ", "null", "[]", "7", `"fine"`, "true", "{}", "{", "}", "[{}]", `{"type":"fine"`, `{"type":"fine"}{"type":"fine"}`, `{"type":null}`, `{"type":["fine"]}`, `{"type":7}`,
	`{"error":null}`, "{'type':'fine'}", "\ufeff{\"type\":\"fine\"}", `{"type":"\x"}`, "\x00", `{"cid":{},"user":[],"created_at":{},"me":7}`,
}

var deep = strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)

func finds(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }

// late is what a deadline that has passed leaves behind.
func late(err error) bool {
	var e net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &e) && e.Timeout()
}

// firstTwo leads the first two dials astray: to an address, to an error, or, with
// neither, nowhere until their context ends.
func firstTwo(addr string, err error) func(int, string) (string, error) {
	return func(dialled int, right string) (string, error) {
		if dialled > 2 {
			return right, nil
		}
		return addr, err
	}
}

func certificate(self bool, change func(*x509.Certificate)) func(t *testing.T, a, stranger *authority) *tls.Config {
	return func(t *testing.T, a, stranger *authority) *tls.Config {
		if self {
			a = stranger
		}
		return &tls.Config{Certificates: []tls.Certificate{a.issue(t, change)}}
	}
}

func version(v uint16) func(t *testing.T, a, stranger *authority) *tls.Config {
	return func(t *testing.T, a, _ *authority) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{a.issue(t, nil)}, MinVersion: v, MaxVersion: v}
	}
}

func agrees(fields ...string) func(v *victim) {
	return func(v *victim) {
		v.agree(fields...)
		v.frame(text, strings.Replace(welcome, "%s", "id", 1))
		v.wait()
	}
}

func retryAfter(value string) func(v *victim) {
	return func(v *victim) { v.answer(503, "", "Retry-After: "+value) }
}

// bomb is a compressed frame that says 16 MiB in 16 KiB.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	_, _ = w.Write([]byte(`{"type":"x","a":"`))
	_, _ = w.Write(bytes.Repeat([]byte("a"), 16<<20))
	_, _ = w.Write([]byte(`"}`))
	_ = w.Flush()
	return frame(text|0x40, string(bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff"))))
})

// gzipBomb is 64 MiB of zeros.
var gzipBomb = sync.OnceValue(func() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	for range 64 / slow {
		_, _ = w.Write(make([]byte, 1<<20))
	}
	_ = w.Close()
	return b.String()
})

// finish ends the peer's stream, once what the client sent is read, and waits for
// the client's.
func (v *victim) finish() {
	_ = v.Conn.(interface{ CloseWrite() error }).CloseWrite()
	v.wait()
}

// byte reads one byte: the client has begun.
func (v *victim) byte() { _, _ = v.r.ReadByte() }

// deaf never reads. Its process ends one day.
func (v *victim) deaf() {
	_ = v.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	select {}
}

// request sends an API request, and reads the beginning of its answer; status 0
// means that there must be an error.
func (p *played) request(status int, begins string) { p.requestIn(time.Minute, status, begins) }

func (p *played) requestIn(limit time.Duration, status int, begins string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+"/app", nil)
	if err != nil {
		p.used = err.Error()
		return
	}
	resp, err := p.conn.HTTPClient().Do(req)
	if err != nil {
		if status != 0 {
			p.used = "the request failed: " + err.Error()
		}
		return
	}
	defer resp.Body.Close()
	head := make([]byte, len(begins))
	_, _ = io.ReadFull(resp.Body, head)
	if resp.StatusCode != status || string(head) != begins {
		p.used = "the answer is " + resp.Status + " " + string(head)
	}
}

func (p *played) noGuest() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, _, err := p.conn.GuestToken(ctx, chatconn.User{ID: "guest"}); err == nil {
		p.used = "there is a guest"
	}
}

func (p *played) keepsSession() {
	if s, ok := p.conn.Session(); !ok || s.ConnectionID != "id" {
		p.used = "the session is " + s.ConnectionID
	}
}
