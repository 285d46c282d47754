package main

import (
	"context"

	"github.com/spf13/cobra"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
)

const adoptSystemLong = `Let a further cluster archive to this prefix. A prefix belongs to the cluster
that first archives to it; another system identifier is refused, because two
clusters in one prefix by mistake is how archives are lost. After pg_upgrade,
which gives the cluster a new identifier, say so once with this command. It can't
be taken back.

The identifier is what "SELECT system_identifier FROM pg_control_system()" and
pg_controldata print, and what the refused wal-push says.`

func newAdoptSystemCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "adopt-system SYSTEM_IDENTIFIER",
		Short:   "let a further cluster archive to the prefix",
		Long:    adoptSystemLong,
		Example: "  wal-e adopt-system 7421838103526743210",
		Args:    arguments("SYSTEM_IDENTIFIER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := postgres.ParseSystemID(args[0])
			if err != nil {
				return &usageError{cmd, err.Error()}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error {
				b, err := s.openBucket(use{})
				if err != nil {
					return err
				}
				if _, err := chunkstore.Admit(ctx, b, uint64(id), true); err != nil {
					return err
				}
				s.log.InfoContext(ctx, "cluster may archive to the prefix", "detail", "System identifier "+id.String()+", prefix "+b.URL()+".")
				return nil
			})
		},
	}
}
