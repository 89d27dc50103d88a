package inspect_test

import (
	"log"
	"net/http"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/inspect"
)

// A program shows its connections beside its profiles, at an address that only it
// can reach: http://localhost:6060/debug/chatconn/.
func Example() {
	var page inspect.Page
	http.Handle("/debug/chatconn/", &page)
	go func() { log.Println(http.ListenAndServe("localhost:6060", nil)) }()

	conn, err := page.New("john", chatconn.Config{APIKey: "key"}) // instead of chatconn.New
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
}

// A server that is shut down in good order lets the page end its streams.
func ExamplePage_Close() {
	var page inspect.Page
	server := &http.Server{Addr: "localhost:6060", Handler: &page}
	server.RegisterOnShutdown(page.Close)
}
