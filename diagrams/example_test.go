package diagrams_test

import (
	"fmt"

	"github.com/chatconn/chatconn/diagrams"
)

// A program that wraps a connection describes its own machine as a plain value,
// has it checked, and draws it.
func Example() {
	banner := diagrams.Table{
		Name:   "banner",
		States: []string{"Hidden", "Shown"},
		Events: []diagrams.EventInfo{{Name: "Lost", Kind: "connection"}, {Name: "Back", Kind: "connection"}, {Name: "Tapped", Kind: "user"}},
		Cells: []diagrams.Cell{
			{From: "Hidden", Event: "Lost", Verdict: diagrams.Move, To: "Shown", Actions: []string{"SlideIn"}},
			{From: "Hidden", Event: "Back", Verdict: diagrams.Ignore, To: "Hidden", Reason: "there is nothing to take away"},
			{From: "Hidden", Event: "Tapped", Verdict: diagrams.Refuse, To: "Hidden", Reason: "nobody can tap what is hidden"},
			{From: "Shown", Event: "Lost", Verdict: diagrams.Ignore, To: "Shown", Reason: "it is shown already"},
			{From: "Shown", Event: "Back", Verdict: diagrams.Move, To: "Hidden", Actions: []string{"SlideOut"}},
		},
	}
	fmt.Println(diagrams.Check(banner))

	banner.Cells = append(banner.Cells, diagrams.Cell{From: "Shown", Event: "Tapped", Verdict: diagrams.Stay, To: "Shown", Actions: []string{"Explain"}})
	fmt.Println(diagrams.Check(banner))
	fmt.Print(diagrams.Mermaid(banner))
	// Output:
	// diagrams: cell "Shown" × "Tapped": nobody declared it
	// <nil>
	// stateDiagram-v2
	//     state "Hidden" as Hidden
	//     state "Shown" as Shown
	//     Shown : stays on<br/>Tapped
	//     [*] --> Hidden
	//     Hidden --> Shown : Lost
	//     Shown --> Hidden : Back
}
