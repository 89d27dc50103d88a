package chatconn_test

import "math/rand"

// seedWaits seeds the generator from which the backoff draws. A program cannot, and
// the environment of the actor makes it possible.
func seedWaits(seed uint64) {
	//lint:ignore SA1019 there is no other way to reach that generator
	rand.Seed(int64(seed))
}
