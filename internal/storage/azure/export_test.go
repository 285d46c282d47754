package azure

// For the fuzz test.
var (
	DecodeError = decodeError
	EncodeMeta  = encodeMeta
	DecodeMeta  = decodeMeta
)
