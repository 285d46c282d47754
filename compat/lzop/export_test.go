package lzop

var Adler32Sum = adler32Sum
