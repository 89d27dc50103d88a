//go:build !race

package chatconn_test

const slow = 1
