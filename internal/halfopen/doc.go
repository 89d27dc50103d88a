// Package halfopen lets a link go dead for real and looks at what a connection
// makes of it. Its tests run on Linux, as root or where a user may make
// namespaces of their own, and need the ip command of iproute2; elsewhere they
// are skipped and say why:
//
//	go test -v ./internal/halfopen             shortened times
//	go test -v ./internal/halfopen -defaults   the times that users get, about a minute
//
// Each test has a client and a server process, each in a network namespace of its
// own, with a veth pair between them. The link is cut by giving each end a wrong
// hardware address of the other: frames leave and arrive nowhere, no error comes
// back, no interface goes down, and no kernel tells anybody. The namespaces have no names,
// so they end with their processes.
package halfopen
