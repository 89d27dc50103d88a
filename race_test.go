//go:build race

package chatconn_test

// slow divides what a flood sends: the race detector looks at every byte.
const slow = 20
