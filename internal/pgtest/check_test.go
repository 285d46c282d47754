package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestAmCheckSeesDamage(t *testing.T) {
	t.Parallel()
	for _, major := range Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := Start(t, Options{Major: major})
			c.Exec(t, "CREATE TABLE t AS SELECT a FROM generate_series(1, 5000) a; CREATE INDEX i ON t(a)")
			index := filepath.Join(c.Dir, c.Query(t, "SELECT pg_relation_filepath('i')"))
			if err := c.amCheck(t); err != nil {
				t.Fatalf("before the damage: %v", err)
			}
			c.Stop(t, Fast)
			f, err := os.OpenFile(index, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(make([]byte, 64), 2*8192-1024); err != nil { // index tuples of the first leaf
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			c.StartAgain(t)
			if err := c.amCheck(t); err == nil {
				t.Error("no word of 64 zeroed bytes in an index")
			}
		})
	}
}
