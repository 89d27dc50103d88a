package conntest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// CoverageDir is the environment variable that names the directory into which
// [Coverage.Main] writes what a test binary has walked. "chatconn coverage" and
// [Coverage.ReadDir] put together what is there.
const CoverageDir = "CHATCONN_COVERAGE"

// Main runs the tests of a package and then asks for the coverage that they have
// reached, all together. It returns the exit code:
//
//	var walked conntest.Coverage
//
//	func TestMain(m *testing.M) { os.Exit(walked.Main(m, 80)) }
//
// The tests give &walked to [Table] or in [Options]. If less than min percent of
// the cells that can be walked and are not excepted were walked, the exit code is
// 1, and the matrix and the missing cells are printed. A min of zero asks for
// nothing: for packages of which only the sum counts. It is not asked either if
// tests failed or if flags such as -run, -skip and -fuzz chose some of them.
//
// If the environment variable [CoverageDir] names a directory, a new file in it
// gets the coverage, for the sum over packages. A result from the cache of "go
// test" writes none: use -count=1, and a directory that was empty before.
// Specification: G3.
func (c *Coverage) Main(m *testing.M, min float64, except ...Cell) int {
	code := m.Run()
	if dir := os.Getenv(CoverageDir); dir != "" && !fuzzing() {
		if err := c.save(dir); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			return 1
		}
	}
	if code != 0 || min == 0 || chosen() {
		return code
	}
	if err := c.Check(min, except...); err != nil {
		fmt.Fprintf(os.Stderr, "%v\nFAIL: %v\n", c, err)
		return 1
	}
	return 0
}

// Require fails the test unless at least min percent of the cells that can be
// walked and are not excepted were walked. Call it when the tests that walk are
// over: parallel subtests are, once the t.Run around them has returned.
// Specification: G3.
func (c *Coverage) Require(t testing.TB, min float64, except ...Cell) {
	t.Helper()
	if err := c.Check(min, except...); err != nil {
		t.Errorf("%v\n%v", err, c)
	}
}

// save writes the coverage into a new file of a directory.
func (c *Coverage) save(dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("conntest: %s: %w", CoverageDir, err)
		}
	}()
	if !filepath.IsAbs(dir) { // every package's tests run in a directory of their own
		return fmt.Errorf("%q is no absolute path", dir)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "*"+ending)
	if err != nil {
		return err
	}
	return errors.Join(c.Write(f), f.Close())
}

const ending = ".coverage.json"

// ReadDir adds every coverage that test binaries have written into a directory;
// see [CoverageDir]. None at all is an error. If one cannot be read, none is added.
func (c *Coverage) ReadDir(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("conntest: coverage: %w", err)
	}
	var all Coverage
	found := false
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ending) {
			continue
		}
		found = true
		if err := all.readFile(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("conntest: coverage: no file in %s ends in %s", dir, ending)
	}
	c.Merge(&all)
	return nil
}

func (c *Coverage) readFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("conntest: coverage: %w", err)
	}
	defer f.Close()
	if err := c.Read(f); err != nil {
		return fmt.Errorf("%w, in %s", err, name)
	}
	return nil
}

// chosen reports whether flags chose some of the tests.
func chosen() bool {
	return isSet("run") || isSet("skip") || isSet("list") || isSet("fuzz")
}

// fuzzing reports whether this is a fuzz run, which starts the binary many times.
func fuzzing() bool { return isSet("fuzz") }

// isSet reports whether a flag of "go test" has a value.
func isSet(name string) bool {
	f := flag.Lookup("test." + name)
	return f != nil && f.Value.String() != ""
}
