package swift

import "io"

// DecodePage reads a page of a listing and returns its names.
func DecodePage(r io.Reader) (names []string, err error) {
	page, err := decodePage(r)
	for _, o := range page {
		names = append(names, o.Name)
	}
	return names, err
}

// DecodeBulk reads the answer to a deletion of many objects.
func DecodeBulk(r io.Reader) error {
	var s session
	return s.bulkResult(r)
}
