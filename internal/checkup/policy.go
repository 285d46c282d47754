package checkup

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Role is what credentials are for.
type Role string

// The roles. Each needs the least that its commands do.
const (
	DatabaseHost Role = "database-host" // backup-push, wal-push, wal-fetch, backup-fetch; can remove nothing
	Collector    Role = "collector"     // delete, gc, undelete, backup-mark; writes no backups
	Restorer     Role = "restorer"      // backup-fetch, wal-fetch, backup-list, verify; changes nothing
)

// Roles returns all roles.
func Roles() []Role { return []Role{DatabaseHost, Collector, Restorer} }

// Folders of an archive, by who writes and who removes what is in them.
var (
	// What a push creates. Config and keys are never removed.
	pushFolders = []string{"wal_006/", "basebackups_006/", "chunks_006/packs/", "chunks_006/index/",
		"chunks_006/config/", "chunks_006/keys/", "chunks_006/FORMAT.txt", "wal_005/", "basebackups_005/"}
	// What a collector creates, outcomes of pushes that it fences included.
	collectFolders = []string{"basebackups_006/", "chunks_006/condemned/", "chunks_006/index/", "deleted_006/", "marks_006/"}
	removeFolders  = []string{"wal_006/", "basebackups_006/", "chunks_006/packs/", "chunks_006/index/",
		"chunks_006/condemned/", "deleted_006/", "marks_006/", "wal_005/", "basebackups_005/"}
)

// A Place is a prefix as policies name it.
type Place struct {
	Scheme string // s3, wabs, gs, swift or file
	Store  string // bucket or container
	Path   string // without slashes at its ends; may be empty
}

// errRole is returned for a role that there is not.
var errRole = errors.New("want database-host, collector or restorer")

// Policy returns the least that a role needs at a place: an IAM policy for S3,
// commands for Azure and Google Storage, and for stores that know no such rights a
// text that says so. Every role may write its probes, so that check works with it.
func Policy(role Role, p Place) (string, error) {
	if !slices.Contains(Roles(), role) {
		return "", fmt.Errorf("role %q: %w", role, errRole)
	}
	switch p.Scheme {
	case "s3":
		return s3Policy(role, p)
	case "wabs":
		return wabsPolicy(role, p), nil
	case "gs":
		return gsPolicy(role, p), nil
	case "swift":
		return swiftPolicy(role, p), nil
	default:
		return filePolicy(role, p), nil
	}
}

// under returns the key or folder as the store sees it.
func (p Place) under(name string) string {
	if p.Path == "" {
		return name
	}
	return p.Path + "/" + name
}

func created(role Role) []string {
	switch role {
	case DatabaseHost:
		return append(slices.Clone(pushFolders), probeDir)
	case Collector:
		return append(slices.Clone(collectFolders), probeDir)
	}
	return nil
}

// A statement is one of an IAM policy; its form is that of AWS, which MinIO and
// others take as well.
type statement struct {
	Sid       string                         `json:"Sid"`
	Effect    string                         `json:"Effect"`
	Action    []string                       `json:"Action"`
	Resource  []string                       `json:"Resource"`
	Condition map[string]map[string][]string `json:"Condition,omitempty"`
}

func s3Policy(role Role, p Place) (string, error) {
	bucket := "arn:aws:s3:::" + p.Store
	objects := func(folders []string) []string {
		var out []string
		for _, f := range folders {
			arn := bucket + "/" + p.under(f)
			if strings.HasSuffix(f, "/") {
				arn += "*"
			}
			out = append(out, arn)
		}
		return out
	}
	list := statement{Sid: "List", Effect: "Allow", Action: []string{"s3:ListBucket"}, Resource: []string{bucket}}
	if p.Path != "" {
		list.Condition = map[string]map[string][]string{"StringLike": {"s3:prefix": {p.Path + "/*"}}}
	}
	statements := []statement{
		list,
		{Sid: "Locate", Effect: "Allow", Action: []string{"s3:GetBucketLocation"}, Resource: []string{bucket}},
		{Sid: "Read", Effect: "Allow", Action: []string{"s3:GetObject"}, Resource: []string{bucket + "/" + p.under("*")}},
	}
	if folders := created(role); folders != nil {
		statements = append(statements, statement{Sid: "Create", Effect: "Allow", Action: []string{"s3:PutObject"}, Resource: objects(folders)})
	}
	if role == Collector {
		statements = append(statements, statement{
			Sid: "Remove", Effect: "Allow", Action: []string{"s3:DeleteObject"},
			Resource: objects(append(slices.Clone(removeFolders), probeDir)),
		})
	}
	text, err := json.MarshalIndent(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", statements}, "", "  ")
	return string(text) + "\n", err
}

// Azure knows a right to create without one to overwrite or delete.
func wabsPolicy(role Role, p Place) string {
	permissions := map[Role]string{DatabaseHost: "rcl", Collector: "rcdl", Restorer: "rl"}[role]
	return fmt.Sprintf(`# A token for WABS_SAS_TOKEN; its rights hold for the whole container.
# r read, l list, c create what doesn't exist, d delete.
az storage container generate-sas --account-name ACCOUNT --name %s \
  --permissions %s --https-only --expiry "$(date -u -d '+1 year' +%%Y-%%m-%%dT%%H:%%MZ)" --output tsv
`, p.Store, permissions)
}

// An object is overwritten in Google Storage only with the right to delete it, so
// objectCreator is create-only.
func gsPolicy(role Role, p Place) string {
	var b strings.Builder
	b.WriteString("# For the service account whose key GOOGLE_APPLICATION_CREDENTIALS names, or that the machine runs as.\n")
	grant := func(name string, folders []string) {
		var conditions []string
		for _, f := range folders {
			name := p.under(f)
			if strings.HasSuffix(f, "_005/") {
				name = "/" + name // as classic WAL-E names objects there
			}
			conditions = append(conditions, fmt.Sprintf(`resource.name.startsWith("projects/_/buckets/%s/objects/%s")`, p.Store, name))
		}
		fmt.Fprintf(&b, "gcloud storage buckets add-iam-policy-binding gs://%s --member=serviceAccount:ACCOUNT \\\n  --role=%s", p.Store, name)
		if len(conditions) > 0 {
			fmt.Fprintf(&b, " \\\n  --condition='title=%s,expression=%s'", role, strings.Join(conditions, " || "))
		} else {
			b.WriteString(" --condition=None")
		}
		b.WriteString("\n")
	}
	grant("roles/storage.objectViewer", nil)
	if folders := created(role); folders != nil {
		grant("roles/storage.objectCreator", folders)
	}
	if role == Collector {
		fmt.Fprintf(&b, "gcloud iam roles create waleDelete --project=PROJECT --permissions=storage.objects.delete\n")
		grant("projects/PROJECT/roles/waleDelete", append(slices.Clone(removeFolders), probeDir))
	}
	return b.String()
}

func swiftPolicy(role Role, p Place) string {
	if role == Restorer {
		return fmt.Sprintf("swift post %s --read-acl 'PROJECT:USER,.rlistings'\n", p.Store)
	}
	return fmt.Sprintf(`# Swift has no right to create without one to overwrite and delete, so the roles
# database-host and collector are one. Where hosts must not be able to remove
# backups, give them another store.
swift post %s --read-acl 'PROJECT:USER,.rlistings' --write-acl 'PROJECT:USER'
`, p.Store)
}

func filePolicy(role Role, p Place) string {
	dir := "/" + p.Path
	if role == Restorer {
		return fmt.Sprintf("# Reading needs a group with the mode r-x; folders and files that pushes make keep to the umask.\nsetfacl -R -m g:GROUP:rX -m d:g:GROUP:rX %s\n", dir)
	}
	return fmt.Sprintf(`# Who may create files in a folder may also remove them, so in files the roles
# database-host and collector are one. Where hosts must not be able to remove
# backups, put a server in between, such as one that speaks S3.
install -d -m 0700 -o postgres -g postgres %s
`, dir)
}
