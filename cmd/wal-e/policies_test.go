package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// testPolicies has each role do its work with the rights that check prints for it,
// which as gives, and fail at what isn't its work. refusal is in the words of a
// store about what it refuses.
func testPolicies(t *testing.T, all *archive, refusal string, as func(policy string) *archive, objects func() []string) {
	t.Helper()
	role := func(name string) *archive { return as(all.must(t, nil, "check", "--policy", name).stdout) }
	host, collector, restorer := role("database-host"), role("collector"), role("restorer")
	stored := func() []string {
		return slices.DeleteFunc(objects(), func(name string) bool { return strings.Contains(name, "/probe_006/") })
	}
	c := host.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	first := host.push(t, c)
	host.push(t, c)
	want := c.Query(t, accounts)
	segment := c.SwitchWAL(t)
	c.WaitArchived(t, segment)
	host.roundTrip(t, c, segment)
	host.must(t, c, "backup-fetch", target(t), first.Name)

	before := stored()
	host.fails(t, c, 1, []string{refusal, "archive", "permission denied"}, "delete", "--confirm", "retain", "1")
	host.fails(t, c, 1, []string{refusal, "archive", "permission denied"}, "delete", "--confirm", "everything")
	if after := stored(); !slices.Equal(after, before) {
		t.Errorf("a delete without rights changed the archive:\nbefore %q\nafter %q", before, after)
	}

	restorer.fails(t, c, 1, []string{refusal, "archive", "permission denied"}, "backup-push", "--checkpoint", "fast", c.Dir)
	dir := target(t)
	restorer.must(t, c, "backup-fetch", "--recover", dir, "LATEST")
	if got := restorer.adopt(t, dir).Query(t, accounts); got != want {
		t.Errorf("accounts restored with the restorer's rights are %s, want %s", got, want)
	}

	collector.must(t, c, "delete", "--confirm", "retain", "1")
	if list := collector.must(t, c, "backup-list").stdout; strings.Contains(list, first.Name) {
		t.Errorf("backup-list after retain 1 printed\n%s", list)
	}
	collector.nothingDead(t, c, nil)
	restorer.verified(t, c)
	for name, a := range map[string]*archive{"database-host": host, "collector": collector, "restorer": restorer} {
		if r := a.run(t, nil, "check"); r.code != 0 {
			t.Errorf("check with the rights of %s: exit %d\n%s%s", name, r.code, r.stdout, r.stderr)
		}
	}
}

// The token that check's command makes has the rights that its letters say.
func TestWABSPolicies(t *testing.T) {
	t.Parallel()
	s := enginetest.Azurite(t)
	all := newStorageArchive(t, wabsEnv(t, s))
	letters := regexp.MustCompile(`--permissions (\w+) `)
	testPolicies(t, all, "shared access signature", func(policy string) *archive {
		m := letters.FindStringSubmatch(policy)
		if m == nil {
			t.Fatalf("no permissions in %s", policy)
		}
		return all.with("WABS_ACCESS_KEY=", "WABS_ACCOUNT_NAME=", "WABS_SAS_TOKEN="+s.SAS(t, "archives", m[1], time.Now().Add(time.Hour)))
	}, func() []string { return s.Objects(t, "archives") })
}

// No emulator enforces rights, so a proxy in front of it reads the policy that
// check prints and refuses what it doesn't grant.
func TestGSPolicies(t *testing.T) {
	t.Parallel()
	s := enginetest.GCS(t)
	s.CreateBucket(t, "archives")
	all := newStorageArchive(t, map[string]string{"WALE_GS_PREFIX": "gs://archives/some/path", "STORAGE_EMULATOR_HOST": s.URL})
	testPolicies(t, all, "storage.objects.", func(policy string) *archive {
		p := enginetest.ReverseProxy(t, strings.TrimPrefix(s.URL, "http://"))
		p.Answer(parseGrants(t, policy).refuse)
		return all.with("STORAGE_EMULATOR_HOST=" + p.Addr)
	}, func() []string { return s.Objects(t, "archives") })
}

// grants are the permissions of a policy of Google Storage, with the beginnings of
// the names that they hold for; none means all.
type grants map[string][]string

// parseGrants reads gcloud's commands.
func parseGrants(t *testing.T, policy string) grants {
	t.Helper()
	permissions := map[string][]string{
		"roles/storage.objectViewer":  {"storage.objects.get", "storage.objects.list"},
		"roles/storage.objectCreator": {"storage.objects.create"},
	}
	for _, m := range regexp.MustCompile(`roles create (\S+) .*--permissions=(\S+)`).FindAllStringSubmatch(policy, -1) {
		permissions["projects/PROJECT/roles/"+m[1]] = strings.Split(m[2], ",")
	}
	g := make(grants)
	for _, command := range strings.Split(policy, "add-iam-policy-binding gs://archives ")[1:] {
		role := regexp.MustCompile(`--role=(\S+)`).FindStringSubmatch(command)
		if role == nil || permissions[role[1]] == nil {
			t.Fatalf("no role that is known in %s", command)
		}
		var names []string
		for _, m := range regexp.MustCompile(`resource\.name\.startsWith\("projects/_/buckets/archives/objects/([^"]+)"\)`).FindAllStringSubmatch(command, -1) {
			names = append(names, m[1])
		}
		for _, p := range permissions[role[1]] {
			g[p] = names
		}
	}
	return g
}

// refuse answers a request that isn't granted.
func (g grants) refuse(w http.ResponseWriter, r *http.Request) bool {
	permission, name, err := needs(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return true
	}
	names, granted := g[permission]
	if granted && (len(names) == 0 || slices.ContainsFunc(names, func(p string) bool { return strings.HasPrefix(name, p) })) {
		return false
	}
	w.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code": http.StatusForbidden, "message": fmt.Sprintf("host@project does not have %s access to archives/%s.", permission, name),
		"errors": []any{map[string]string{"reason": "forbidden"}},
	}})
	return true
}

// needs returns the permission that a request needs, and the object.
func needs(r *http.Request) (permission, name string, err error) {
	const objects = "/storage/v1/b/archives/o"
	path := r.URL.EscapedPath()
	if path == "/upload"+objects {
		if r.URL.Query().Get("ifGenerationMatch") != "0" {
			return "storage.objects.delete", "", nil // it might overwrite
		}
		name, err := uploaded(r)
		return "storage.objects.create", name, err
	}
	if path == objects {
		return "storage.objects.list", "", nil
	}
	name, err = url.PathUnescape(strings.TrimPrefix(path, objects+"/"))
	if r.Method == http.MethodDelete {
		return "storage.objects.delete", name, err
	}
	return "storage.objects.get", name, err
}

// uploaded returns the name in the first part of an upload, and leaves the body as
// it was.
func uploaded(r *http.Request) (string, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return "", err
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	_, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return "", err
	}
	part, err := multipart.NewReader(bytes.NewReader(data), parameters["boundary"]).NextPart()
	if err != nil {
		return "", err
	}
	var about struct{ Name string }
	err = json.NewDecoder(part).Decode(&about)
	return about.Name, err
}

// Credentials of an instance that end in the middle of a push are renewed.
func TestS3InstanceProfile(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	r := enginetest.ReverseProxy(t, s.Addr)
	var old, renewed enginetest.Credentials
	for _, c := range []*enginetest.Credentials{&old, &renewed} {
		c.AccessKey, c.SecretKey, c.Token = s.Session(t, "")
		c.Expires = time.Now().Add(time.Hour)
	}
	over := make(chan struct{})
	asked := make(chan bool, 100) // whether the session was over
	env := s3Env(t, s)
	env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = enginetest.IMDS(t, func() enginetest.Credentials {
		select {
		case <-over:
			asked <- true
			return renewed
		default:
			asked <- false
			return old
		}
	})
	env["WALE_S3_ENDPOINT"] = "http+path://" + r.Addr
	delete(env, "AWS_ACCESS_KEY_ID")
	delete(env, "AWS_SECRET_ACCESS_KEY")
	env["AWS_INSTANCE_PROFILE"] = "1" // of the commands that PostgreSQL runs
	a := newStorageArchive(t, env)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	for len(asked) > 0 {
		<-asked
	}
	refused, ended := 0, false
	r.Answer(func(w http.ResponseWriter, req *http.Request) bool {
		if !ended && req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, ".intent") {
			ended = true
			close(over)
			return false // the push has begun, and this is the last that its session may do
		}
		if !ended || req.Header.Get("X-Amz-Security-Token") != old.Token {
			return false
		}
		refused++
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")
		return true
	})
	a.push(t, c, "--aws-instance-profile")
	r.Answer(nil)
	if refused == 0 || !slices.Contains(drain(asked), true) {
		t.Errorf("%d requests met a session that is over, and the instance was asked for another: want both", refused)
	}
	a.verified(t, c)
}

func drain(c chan bool) (all []bool) {
	for len(c) > 0 {
		all = append(all, <-c)
	}
	return all
}
