package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// The listings of a healthy Swift of one node don't lag.
func swiftCases() []storageCase {
	settle := []string{"--settle", "1s"}
	return []storageCase{
		{name: "swift-v1", collect: settle, open: func(t *testing.T) map[string]string {
			s := enginetest.Swift(t, 1)
			s.CreateContainer(t, "archives", nil)
			return map[string]string{
				"WALE_SWIFT_PREFIX": "swift://archives/main", "SWIFT_AUTH_VERSION": "1",
				"SWIFT_AUTHURL": s.AuthURL, "SWIFT_USER": s.User, "SWIFT_PASSWORD": s.Password,
			}
		}},
		{name: "swift-v3", collect: settle, open: func(t *testing.T) map[string]string {
			k := enginetest.Keystone(t)
			s := k.Swift(t, 1)
			s.CreateContainer(t, "archives", nil)
			return map[string]string{
				"WALE_SWIFT_PREFIX": "swift://archives", "SWIFT_AUTH_VERSION": "3", "SWIFT_AUTHURL": k.URL,
				"SWIFT_USER": s.User, "SWIFT_PASSWORD": s.Password, "SWIFT_TENANT": enginetest.KeystoneProject,
				"SWIFT_USER_DOMAIN_NAME": "Default", "SWIFT_PROJECT_DOMAIN_NAME": "Default",
				"SWIFT_REGION": enginetest.KeystoneRegion, "SWIFT_ENDPOINT_TYPE": "publicURL",
			}
		}},
	}
}

// One of three nodes dies and comes back. A push that meets this either says
// that it failed or has stored a whole backup, and no collection works while the
// listings of the nodes differ.
func TestSwiftNode(t *testing.T) {
	t.Parallel()
	s := enginetest.Swift(t, 3)
	s.CreateContainer(t, "archives", nil)
	a := newStorageArchive(t, map[string]string{
		"WALE_SWIFT_PREFIX": "swift://archives/main", "SWIFT_AUTH_VERSION": "1",
		"SWIFT_AUTHURL": s.AuthURL, "SWIFT_USER": s.User, "SWIFT_PASSWORD": s.Password,
	})
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	a.push(t, c)
	s.UpdateListings(t)

	c.Exec(t, "UPDATE pgbench_accounts SET abalance = 7 WHERE aid % 50 = 0")
	push := a.command(t, c, "backup-push", "--checkpoint", "fast", c.Dir)
	done := make(chan result, 1)
	go func() { done <- runCommand(t, push) }()
	time.Sleep(500 * time.Millisecond)
	s.KillNode(2)
	during := <-done
	t.Logf("a push while a node dies: exit %d\n%s", during.code, during.stderr)
	backups := 1
	if during.code == 0 {
		backups++
	}

	s.StartNode(2)
	s.AwaitNode(t, 2)
	if r := runCommand(t, a.command(t, c, "delete", "retain", "1", "--confirm", "--exclusive")); r.code == 0 || !strings.Contains(r.stderr, "listings don't agree") {
		t.Errorf("delete while listings differ: exit %d, want 1 and the reason\n%s", r.code, r.stderr)
	}
	s.UpdateListings(t)
	a.verified(t, c)
	if got := strings.Count(a.must(t, c, "backup-list").stdout, "base_"); got != backups {
		t.Errorf("there are %d backups, want the %d whose push succeeded", got, backups)
	}
	a.push(t, c)
	s.UpdateListings(t)

	// In the middle of a fetch the other replicas have everything.
	fetched := target(t)
	fetch := a.started(t, c, "backup-fetch", fetched, "LATEST")
	waitFor(t, func() bool { return holdsFile(filepath.Join(fetched, "base")) })
	s.KillNode(1)
	fetch.succeeds(t)
	s.StartNode(1)
	s.AwaitNode(t, 1)
	s.UpdateListings(t)

	a.must(t, c, "delete", "retain", "1", "--confirm", "--settle", "1s")
	s.UpdateListings(t) // of the tombstones: a listing without them names backups that are gone
	a.verified(t, c)
}

// A node dies in the middle of a collection, which may fail; the next one ends it,
// and nothing is lost. Until Swift believes that the node is gone, that takes a
// minute.
func TestSoakSwiftNodeDiesInCollection(t *testing.T) {
	if os.Getenv("WALE_SOAK") == "" {
		t.Skip("takes minutes: make soak")
	}
	s := enginetest.Swift(t, 3)
	s.CreateContainer(t, "archives", nil)
	a := newStorageArchive(t, map[string]string{
		"WALE_SWIFT_PREFIX": "swift://archives/main", "SWIFT_AUTH_VERSION": "1",
		"SWIFT_AUTHURL": s.AuthURL, "SWIFT_USER": s.User, "SWIFT_PASSWORD": s.Password,
	})
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	for node := range 3 {
		a.push(t, c)
		c.Exec(t, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = 0")
		a.push(t, c)
		s.UpdateListings(t)
		collection := a.started(t, c, "delete", "retain", "1", "--confirm", "--settle", "1s")
		before := len(s.Objects(t, "archives", "main/deleted_006/"))
		waitFor(t, func() bool { return len(s.Objects(t, "archives", "main/deleted_006/")) > before })
		s.KillNode(node)
		r := collection.ended(t)
		t.Logf("delete while node %d dies: exit %d\n%s", node, r.code, r.stderr)
		if r.code != 0 && r.code != 1 {
			t.Errorf("delete while node %d dies: exit %d, want 0 or 1", node, r.code)
		}
		s.StartNode(node)
		s.AwaitNode(t, node)
		s.UpdateListings(t)
		a.verified(t, c)
		a.must(t, c, "delete", "retain", "1", "--confirm", "--settle", "1s")
		s.UpdateListings(t)
		a.verified(t, c)
	}
}
