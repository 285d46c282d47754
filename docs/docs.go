// Package docs holds those documents that the program prints.
package docs

import _ "embed" // for the document

// Troubleshooting has a section for each fault.Kind, whose heading begins with
// its number.
//
//go:embed troubleshooting.md
var Troubleshooting string
