//go:build docgen

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// This file is in the program that makes man pages and completions, not in wal-e:
//
//	go run -tags docgen ./cmd/wal-e DIR
//
// writes DIR/man1/*.1 and DIR/bash, DIR/zsh and DIR/fish. SOURCE_DATE_EPOCH is the
// date in the pages.
func init() {
	generate = func(dir string) error {
		root := newRootCommand(&app{stdout: io.Discard, stderr: io.Discard})
		root.DisableAutoGenTag = true
		man := filepath.Join(dir, "man1")
		if err := os.MkdirAll(man, 0o755); err != nil {
			return err
		}
		at := time.Unix(0, 0).UTC()
		if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
			at = time.Unix(n, 0).UTC()
		}
		describe(root)
		if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Date: &at, Source: "wal-e " + version, Manual: "PostgreSQL archiving"}, man); err != nil {
			return err
		}
		for shell, write := range map[string]func(io.Writer) error{
			"bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
			"zsh":  root.GenZshCompletion,
			"fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
		} {
			f, err := os.Create(filepath.Join(dir, shell))
			if err != nil {
				return err
			}
			if err := write(f); err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
		return nil
	}
}

// describe makes of topics, which can't be run, pages, and of preformatted tables
// what markdown leaves as it is.
func describe(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.IsAdditionalHelpTopicCommand() {
			c.Long = "```\n" + c.Long + "\n```"
			c.Run = func(*cobra.Command, []string) { fmt.Println(c.Long) }
		}
		describe(c)
	}
}
