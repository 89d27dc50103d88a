//go:build unix

package main

import (
	"math"
	"syscall"
)

// descriptors returns how many files this process may open. The Go runtime has
// raised the soft limit to the hard one already.
func descriptors() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return math.MaxUint64
	}
	return uint64(limit.Cur)
}
