package transport

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// No error of this file holds the URL of a proxy, which may hold a password.

// proxyAddress returns where a proxy listens.
func proxyAddress(proxy *url.URL) (string, error) {
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	port := ports[proxy.Scheme]
	if port == "" || proxy.Hostname() == "" {
		return "", errors.New("the proxy is not an http, https, socks5 or socks5h URL with a host")
	}
	if p := proxy.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(proxy.Hostname(), port), nil
}

// tunnel asks the proxy behind conn for a way to addr and returns what then leads
// there: conn or, for an https proxy, TLS above it. The caller bounds the time by
// closing conn.
func tunnel(conn net.Conn, proxy *url.URL, addr string, config *tls.Config) (net.Conn, error) {
	switch proxy.Scheme {
	case "socks5", "socks5h":
		return conn, socks(conn, proxy.User, addr)
	case "https":
		config = config.Clone()
		config.ServerName = proxy.Hostname()
		conn = tls.Client(conn, config)
	}
	return conn, connect(conn, proxy.User, addr)
}

// connect speaks HTTP CONNECT.
func connect(conn net.Conn, user *url.Userinfo, addr string) error {
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		request.Header.Set("Proxy-Authorization", "Basic "+basic)
	}
	if err := request.Write(conn); err != nil {
		return err
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxHandshake))
	answer, err := http.ReadResponse(reader, request)
	if err != nil {
		if kindOf(err, Malformed) == Malformed {
			err = errors.New("the proxy does not speak HTTP") // the parser's error quotes the answer
		}
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the proxy answered HTTP %d", answer.StatusCode)
	}
	if reader.Buffered() > 0 {
		return errors.New("the proxy sent bytes before the tunnel was used")
	}
	return nil
}

// socks speaks SOCKS version 5, RFC 1928, with the password of RFC 1929. The proxy
// resolves the host.
func socks(conn net.Conn, user *url.Userinfo, addr string) error {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return errors.New("the port is not a number")
	}
	password, _ := user.Password()
	if len(host) > 255 || len(user.Username()) > 255 || len(password) > 255 {
		return errors.New("host, user or password is too long for SOCKS")
	}
	const version, noAuth, byPassword, doConnect = 5, 0, 2, 1
	const ipv4, domain, ipv6 = 1, 3, 4
	ask := func(request, answer []byte) error {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, answer)
		return err
	}

	methods := []byte{version, 1, noAuth}
	if user != nil {
		methods = []byte{version, 2, noAuth, byPassword}
	}
	var answer [5]byte
	if err := ask(methods, answer[:2]); err != nil {
		return err
	}
	switch {
	case answer[0] != version:
		return errors.New("the proxy does not speak SOCKS5")
	case answer[1] == byPassword && user != nil:
		login := append([]byte{1, byte(len(user.Username()))}, user.Username()...)
		login = append(append(login, byte(len(password))), password...)
		if err := ask(login, answer[:2]); err != nil {
			return err
		}
		if answer[1] != 0 {
			return errors.New("the proxy refused the password")
		}
	case answer[1] != noAuth:
		return errors.New("the proxy wants another authentication")
	}

	request := []byte{version, doConnect, 0}
	if ip := net.ParseIP(host); ip == nil {
		request = append(append(request, domain, byte(len(host))), host...)
	} else if ip4 := ip.To4(); ip4 != nil {
		request = append(append(request, ipv4), ip4...)
	} else {
		request = append(append(request, ipv6), ip...)
	}
	request = binary.BigEndian.AppendUint16(request, uint16(port))
	if err := ask(request, answer[:]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return fmt.Errorf("the proxy could not connect: SOCKS reply %d", answer[1])
	}
	// The address that the proxy uses follows, of which the first byte is read.
	rest := map[byte]int{ipv4: net.IPv4len - 1, domain: int(answer[4]), ipv6: net.IPv6len - 1}[answer[3]] + 2
	_, err = io.ReadFull(conn, make([]byte, rest))
	return err
}
