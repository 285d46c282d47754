package nightly_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/bench/nightly"
	"wal-e/internal/pgtest"
)

// A tool is a program with its commands. In a script $DATA is the cluster, $REPO where
// backups go, $STATE what the program remembers on the host, $OUT an empty folder.
type tool struct {
	nightly.Program
	prepare string // an empty repository
	env     []string
	latest  string // of the restored cluster, below $OUT; ends in $DATA's path when it begins with that
	live    bool   // backs up a running server only
	s3      []string
}

// fresh tells whether the tool starts with an empty repository each night.
func (t tool) fresh() bool { return !t.Kept }

// tools returns the programs that this machine has.
func tools(b *testing.B, dir string) []tool {
	b.Helper()
	list := []tool{{
		Program: nightly.Program{Name: nightly.Ours, Kept: true, Alone: true,
			Backup:  "wal-e --terse backup-push --while-offline --json $DATA",
			Restore: "wal-e --terse backup-fetch $OUT LATEST"},
		env: []string{"WALE_FILE_PREFIX=file://localhost$REPO", "WALE_STATE_DIR=$STATE", "WALE_LOG_DESTINATION=stderr"},
		s3: []string{"WALE_S3_PREFIX=s3://bench$FOLDER", "WALE_S3_ENDPOINT=https+path://$ADDRESS", "SSL_CERT_FILE=$CA", "AWS_REGION=$REGION",
			"AWS_ACCESS_KEY_ID=$KEY", "AWS_SECRET_ACCESS_KEY=$SECRET", "WALE_STATE_DIR=$STATE", "WALE_LOG_DESTINATION=stderr"},
	}}
	if version := version("pgbackrest", "version"); version != "" {
		env := []string{"PGBACKREST_STANZA=x", "PGBACKREST_PG1_PATH=$DATA", "PGBACKREST_PROCESS_MAX=4",
			"PGBACKREST_COMPRESS_TYPE=zst", "PGBACKREST_COMPRESS_LEVEL=1", "PGBACKREST_LOG_LEVEL_FILE=off", "PGBACKREST_LOG_LEVEL_CONSOLE=error",
			"PGBACKREST_LOCK_PATH=" + filepath.Join(dir, "lock"), "PGBACKREST_REPO1_BUNDLE=y"}
		note := "zstd level 1, 4 processes, files bundled; without block incremental, which this version hasn't; each night leans on those before"
		if !strings.HasPrefix(version, "pgBackRest 2.4") || version >= "pgBackRest 2.46" {
			env = append(env, "PGBACKREST_REPO1_BLOCK=y")
			note = "zstd level 1, 4 processes, files bundled, block incremental; each night leans on those before"
		}
		p := nightly.Program{Name: "pgbackrest", Version: version, Kept: true, Note: note,
			Backup:  "pgbackrest --no-online --type=incr backup",
			Restore: "pgbackrest --pg1-path=$OUT --type=none restore"}
		s3 := append([]string{"PGBACKREST_REPO1_PATH=$FOLDER", "PGBACKREST_REPO1_TYPE=s3", "PGBACKREST_REPO1_S3_BUCKET=bench", "PGBACKREST_REPO1_S3_URI_STYLE=path",
			"PGBACKREST_REPO1_S3_ENDPOINT=$HOST", "PGBACKREST_REPO1_STORAGE_HOST=$HOST", "PGBACKREST_REPO1_STORAGE_PORT=$PORT",
			"PGBACKREST_REPO1_STORAGE_VERIFY_TLS=n", "PGBACKREST_REPO1_S3_REGION=$REGION", "PGBACKREST_REPO1_S3_KEY=$KEY", "PGBACKREST_REPO1_S3_KEY_SECRET=$SECRET"}, env...)
		env = append([]string{"PGBACKREST_REPO1_PATH=$REPO"}, env...)
		list = append(list, tool{Program: p, prepare: "pgbackrest --no-online stanza-create", env: env, s3: s3})
		p.Name, p.Kept, p.Alone, p.Note = "pgbackrest full", false, true, "the same, everything each night, in an empty repository"
		p.Backup = "pgbackrest --no-online --type=full backup"
		list = append(list, tool{Program: p, prepare: "pgbackrest --no-online stanza-create", env: env})
	}
	if version := version("restic", "version"); version != "" {
		list = append(list, tool{
			Program: nightly.Program{Name: "restic", Version: version, Kept: true, Alone: true, Note: "of the stopped directory, encrypted as always",
				Backup: "restic -q backup $DATA", Restore: "restic -q restore latest --target $OUT"},
			prepare: "restic -q init", latest: "$DATA",
			env: []string{"RESTIC_PASSWORD=x", "RESTIC_REPOSITORY=$REPO", "RESTIC_CACHE_DIR=$STATE"},
			s3: []string{"RESTIC_PASSWORD=x", "RESTIC_REPOSITORY=s3:https://$ADDRESS/bench$FOLDER", "RESTIC_CACHE_DIR=$STATE", "RESTIC_CACERT=$CA",
				"AWS_DEFAULT_REGION=$REGION", "AWS_ACCESS_KEY_ID=$KEY", "AWS_SECRET_ACCESS_KEY=$SECRET"},
		})
	}
	if version := version("lzop", "--version"); version != "" {
		list = append(list, tool{Program: nightly.Program{Name: "tar, lzop", Version: version, Alone: true, Note: "of the stopped directory, in a pipe",
			Backup: "tar -C $DATA -c . | lzop -c >$REPO/base && sync $REPO/base $REPO", Restore: "lzop -dc $REPO/base | tar -C $OUT -x && sync -f $OUT"}})
	}
	list = append(list, tool{Program: nightly.Program{Name: "cp", Version: version("cp", "--version"), Alone: true, Plain: true, Note: "of the stopped directory, uncompressed",
		Backup: "cp -a $DATA $REPO/base && sync -f $REPO", Restore: "cp -a $REPO/base/. $OUT && sync -f $OUT"}})

	pgBaseBackup := pgtest.Tool(b, "pg_basebackup")
	list = append(list, tool{live: true, Program: nightly.Program{Name: "pg_basebackup", Version: version(pgBaseBackup, "--version"), Alone: true, Plain: true,
		Note:   "of the running server, plain files; processor time, reads and memory are the client's alone",
		Backup: "pg_basebackup --checkpoint=fast -X fetch -D $REPO/base", Restore: "cp -a $REPO/base/. $OUT && sync -f $OUT"}})
	if version := version("wal-g", "--version"); version != "" {
		list = append(list, tool{live: true, env: []string{"WALG_FILE_PREFIX=$REPO", "WALG_COMPRESSION_METHOD=zstd", "WALG_DELTA_MAX_STEPS=1000"},
			Program: nightly.Program{Name: "wal-g", Version: version, Kept: true, Note: "of the running server; pages that changed; each night leans on those before",
				Backup: "wal-g backup-push $DATA", Restore: "wal-g backup-fetch $OUT LATEST"}})
	}
	return list
}

// version returns the first line that a program says of itself, or "" when it isn't
// there.
func version(args ...string) string {
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
