package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"wal-e/internal/fault"
)

// globalFlags are the options that stand before the subcommand.
type globalFlags struct {
	awsAccessKeyID     string
	awsInstanceProfile bool
	gsAccessKeyID      string // accepted as ever, without any effect
	wabsAccountName    string

	s3Prefix, wabsPrefix, gsPrefix, swiftPrefix, filePrefix string

	gpgKeyID    string
	gpgKeyIDSet bool // also to an empty string
	terse       bool
	progress    progressFlags
	iKnow       bool // that objects in cold storage classes can't be read at once
}

func (f *globalFlags) bind(set *pflag.FlagSet) {
	set.SortFlags = false
	set.StringVar(&f.filePrefix, "file-prefix", "", "archive in a directory, `URL` file://localhost/DIR (WALE_FILE_PREFIX)")
	set.StringVar(&f.gsPrefix, "gs-prefix", "", "archive in Google Cloud Storage, `URL` gs://BUCKET/PATH (WALE_GS_PREFIX)")
	set.StringVar(&f.s3Prefix, "s3-prefix", "", "archive in S3, `URL` s3://BUCKET/PATH (WALE_S3_PREFIX)")
	set.StringVar(&f.swiftPrefix, "swift-prefix", "", "archive in OpenStack Swift, `URL` swift://CONTAINER/PATH (WALE_SWIFT_PREFIX)")
	set.StringVar(&f.wabsPrefix, "wabs-prefix", "", "archive in Azure Blob Storage, `URL` wabs://CONTAINER/PATH (WALE_WABS_PREFIX)")
	set.StringVarP(&f.awsAccessKeyID, "aws-access-key-id", "k", "", "access `KEY` of S3 (AWS_ACCESS_KEY_ID)")
	set.BoolVar(&f.awsInstanceProfile, "aws-instance-profile", false, "take S3's credentials from the instance (AWS_INSTANCE_PROFILE=1)")
	set.StringVarP(&f.wabsAccountName, "wabs-account-name", "a", "", "Azure storage `ACCOUNT` (WABS_ACCOUNT_NAME)")
	set.StringVar(&f.gsAccessKeyID, "gs-access-key-id", "", "`KEY` without effect; accepted because classic WAL-E did")
	set.StringVar(&f.gpgKeyID, "gpg-key-id", "", "encrypt to this `KEY`, or several with commas (WALE_GPG_KEY_ID)")
	set.BoolVar(&f.iKnow, "i-know", false, "let WALE_S3_STORAGE_CLASS be one that must be restored before it can be read")
	set.BoolVar(&f.terse, "terse", false, "log only warnings and errors")
	f.progress.bind(set)
}

const rootLong = `wal-e archives PostgreSQL continuously: base backups that are full to restore
and incremental to store, and every WAL file in between.

Set one of the prefixes, point PostgreSQL at the WAL commands, and push a base
backup every night. Options stand before or behind the subcommand; an option
beats the variable in parentheses.

wal-e help environment   lists all variables
wal-e help exit-status   says what each status means to PostgreSQL`

const rootExample = `  # postgresql.conf
  archive_command = 'WALE_ENVDIR=/etc/wal-e.d/env wal-e wal-push %p'
  restore_command = 'WALE_ENVDIR=/etc/wal-e.d/env wal-e wal-fetch %f %p'`

// newRootCommand builds the command with all its subcommands.
func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "wal-e SUBCOMMAND",
		Short:         "continuous archiving for PostgreSQL",
		Long:          rootLong,
		Example:       rootExample,
		Args:          cobra.ArbitraryArgs, // parseArgs has looked for subcommands
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return noSubcommand(a, cmd) },
	}
	root.SetUsageFunc(printUsage)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd, err.Error()} })
	flags := root.PersistentFlags()
	a.flags.bind(flags)
	root.PersistentPreRun = func(*cobra.Command, []string) { a.flags.gpgKeyIDSet = flags.Changed("gpg-key-id") }
	root.AddCommand(subcommands(a)...)
	root.SetHelpCommand(newHelpCommand(root))
	root.InitDefaultHelpCmd()
	return root
}

// subcommands lists all there are. Each is one file.
func subcommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newBackupPushCommand(a),
		newBackupFetchCommand(a),
		newBackupListCommand(a),
		newBackupMarkCommand(a),
		newDeleteCommand(a),
		newUndeleteCommand(a),
		newGCCommand(a),
		newLsCommand(a),
		newCatCommand(a),
		newDiffCommand(a),
		newStatusCommand(a),
		newReportCommand(a),
		newVerifyCommand(a),
		newDrillCommand(a),
		newCheckCommand(a),
		newAdoptSystemCommand(a),
		newKeyCommand(a),
		newUpgradeLayoutCommand(a),
		newImportCommand(a),
		newExportCommand(a),
		newCopyCommand(a),
		newWALPushCommand(a),
		newWALFetchCommand(a),
		newWALPrefetchCommand(a),
		newWALShowCommand(a),
		newWALVerifyCommand(a),
		newExplainCommand(a),
		newVersionCommand(a),
		newEnvironmentTopic(),
		newExitStatusTopic(),
	}
}

// noSubcommand ends as classic WAL-E does: a missing prefix is found first.
func noSubcommand(a *app, cmd *cobra.Command) error {
	return a.check(cmd.Context(), func(context.Context, *session) error {
		return &message{
			kind:   fault.Usage,
			text:   errNoSubcommand.Error(),
			detail: "The submitted subcommand was None.",
			hint:   "Check for typos or consult wal-e --help.",
			err:    errNoSubcommand,
		}
	})
}
