// Package loopback tells which hosts are this machine itself. What must not cross a
// network in the clear goes to those only. Specification: S1, T8.
package loopback

import (
	"net/netip"
	"strings"
)

// Is reports whether a host, without port and brackets, is a loopback address or
// localhost. Other names are not looked up.
func Is(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
