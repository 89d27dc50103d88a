package inspect

// Open returns the number of streams.
func (p *Page) Open() int {
	p.begin()
	return len(*p.streams.Load())
}
