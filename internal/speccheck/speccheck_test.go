package main

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

func module(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestPromisesAreListItemsThatBeginWithTheirID(t *testing.T) {
	got, err := promised("# Promises of **Z9**\n" +
		"- **A1** one, like **A7**\n  goes on\n" +
		"- **A10** two\n" +
		"text **A8**\n" +
		"* **E** the matrix\n" +
		"- *A9* no promise\n")
	if want := []string{"A1", "A10", "E"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestAPageIsRefusedWhenItSaysNothingOrRepeatsItself(t *testing.T) {
	for text, want := range map[string]string{
		"nothing":                    "promises nothing",
		"- **A1** so\n- **A1** so\n": "promises A1 twice",
	} {
		if _, err := promised(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestWhatCountsAsNaming(t *testing.T) {
	got, err := cited(module(map[string]string{
		"name_test.go":                 "package p\nfunc TestA1_First() {}\nfunc TestB22Second() {}\nfunc FuzzX_C3(){}\nfunc ExampleE() {}\n",
		"comment_test.go":              "package p\n// A1, D4: why\nfunc TestX() {\n\t_ = 1 // matrix E\n}\n",
		"other_test.go":                "package p\n/* (F5) */\n",
		"testdata/scenarios/some.txt":  "# G6: why\nconnect john K1\n",
		"sub/testdata/scenarios/x.txt": "# G7\n",

		// None of these names anything.
		"plain.go":                      "package p\n// I1\n",
		"word_test.go":                  "package p\n// xA2 A2x A_3 A333 E2E Every\nfunc TestEOF() {}\nfunc TestX509() {}\nfunc TestA2ndTime() {}\n",
		"string_test.go":                "package p\nvar s = \"J1\"\n",
		"helper_test.go":                "package p\nfunc helpL1_x() {}\ntype t int\nfunc (t) TestL2() {}\n",
		"directive_test.go":             "//go:build M1\n\npackage p\n",
		"testdata/broken_test.go":       "N1 is no Go",
		".git/x_test.go":                "package p // O1\n",
		"testdata/scenarios/deep/x.txt": "# P1\n",
		"testdata/other.txt":            "# Q1\n",
	}))
	want := map[string][]string{
		"A1": {"comment_test.go", "name_test.go"}, "B22": {"name_test.go"}, "C3": {"name_test.go"},
		"D4": {"comment_test.go"}, "E": {"comment_test.go", "name_test.go"}, "F5": {"other_test.go"},
		"G6": {"testdata/scenarios/some.txt"}, "G7": {"sub/testdata/scenarios/x.txt"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
}

func TestATestFileThatIsNoGoIsAnError(t *testing.T) {
	_, err := cited(module(map[string]string{"x_test.go": "no Go"}))
	if err == nil || !strings.HasPrefix(err.Error(), "x_test.go: ") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestReport(t *testing.T) {
	const promises = "- **A1** so\n- **A2** so\n"
	for _, c := range []struct {
		name, test, want, wantErr string
	}{
		{"all is well", "// A1, A2", "2 promises, each named by a test\n", ""},
		{"untested", "// A2", "A1: promised, and no test names it\n", "1 of 2 promises are untested, 0 ids are unknown"},
		{"unknown", "// A1 A2 A3", "A3: named by x_test.go, and docs/promises.md does not promise it\n", "0 of 2 promises are untested, 1 ids are unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := run(&out, module(map[string]string{page: promises, "x_test.go": "package p " + c.test + "\n"}), false)
			if out.String() != c.want || errText(err) != c.wantErr {
				t.Errorf("got %q, %q; want %q, %q", out.String(), errText(err), c.want, c.wantErr)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestVerboseListsWhoProvesWhat(t *testing.T) {
	var out bytes.Buffer
	err := run(&out, module(map[string]string{page: "- **A1** so\n", "x_test.go": "package p // A1\n"}), true)
	if err != nil || !strings.HasPrefix(out.String(), "A1   1 x_test.go\n") {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
