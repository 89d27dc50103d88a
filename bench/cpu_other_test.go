//go:build !unix

package bench

import "time"

// processorTime is what this process has used of the processors; zero: unknown.
func processorTime() time.Duration { return 0 }
