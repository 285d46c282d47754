package nightly

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// A Line is a named row of values, one per night; NaN where there is none.
type Line struct {
	Name   string
	Values []float64
}

// A Plot is a picture with a line per program.
type Plot struct {
	Title  string
	Unit   string // of the vertical axis
	Log    bool   // powers of ten on the vertical axis; only values above 0 are drawn
	Labels []string
	Lines  []Line
}

var colors = []string{"#c0392b", "#2471a3", "#1e8449", "#b7950b", "#7d3c98", "#117a65", "#566573", "#d35400", "#2e4053"}

// SVG draws the plot.
func (p Plot) SVG() []byte {
	const width, height, left, top, right, bottom = 960.0, 480.0, 70.0, 40.0, 190.0, 110.0
	low, high := math.Inf(1), math.Inf(-1)
	for _, l := range p.Lines {
		for _, v := range l.Values {
			if p.drawn(v) {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if low > high {
		low, high = 1, 10
	}
	if p.Log {
		low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	} else {
		low = 0
	}
	if high <= low {
		high = low + 1
	}
	y := func(v float64) float64 {
		share := (v - low) / (high - low)
		if p.Log {
			share = math.Log10(v/low) / math.Log10(high/low)
		}
		return height - bottom - share*(height-top-bottom)
	}
	x := func(i int) float64 {
		return left + (float64(i)+0.5)*(width-left-right)/float64(max(len(p.Labels), 1))
	}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&s, `<rect width="%g" height="%g" fill="white"/>`+"\n", width, height)
	text := func(x, y float64, attributes, words string) {
		fmt.Fprintf(&s, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, escape(words))
	}
	text(left, 22, `font-size="15"`, p.Title)
	text(8, top-6, ``, p.Unit)
	for _, v := range p.ticks(low, high) {
		fmt.Fprintf(&s, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", left, width-right, y(v), y(v))
		text(left-6, y(v)+4, `text-anchor="end"`, fmt.Sprintf("%g", v))
	}
	for i, label := range p.Labels {
		text(0, 0, fmt.Sprintf(`text-anchor="end" font-size="10" transform="translate(%.1f %.1f) rotate(-50)"`, x(i)+4, height-bottom+14), label)
	}
	for n, l := range p.Lines {
		color := colors[n%len(colors)]
		var points []string
		for i, v := range l.Values {
			if p.drawn(v) {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(i), y(v)))
				fmt.Fprintf(&s, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n", x(i), y(v), color)
			}
		}
		fmt.Fprintf(&s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(points, " "), color)
		at := top + 18*float64(n)
		fmt.Fprintf(&s, `<rect x="%g" y="%g" width="12" height="12" fill="%s"/>`+"\n", width-right+12, at, color)
		text(width-right+30, at+10, ``, l.Name)
	}
	s.WriteString("</svg>\n")
	return []byte(s.String())
}

func (p Plot) drawn(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (!p.Log || v > 0)
}

// ticks returns where lines go across.
func (p Plot) ticks(low, high float64) (at []float64) {
	if p.Log {
		for v := low; v <= high*1.001; v *= 10 {
			at = append(at, v)
		}
		return at
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for _, part := range []float64{0.1, 0.2, 0.5} {
		if high/(step*part) <= 8 {
			step *= part
			break
		}
	}
	for v := 0.0; v <= high; v += step {
		at = append(at, math.Round(v*1e6)/1e6)
	}
	return at
}

func escape(text string) string {
	var s strings.Builder
	if err := xml.EscapeText(&s, []byte(text)); err != nil {
		panic("nightly: internal error: " + err.Error()) // a Builder takes all
	}
	return s.String()
}
