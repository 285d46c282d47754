package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"wal-e/internal/fault"
)

// A metrics is what status --metrics-file writes, in the order in which it was
// added. All are gauges. Times are seconds since 1970, so that a rule computes an
// age when it is evaluated, and not when the file was written.
type metrics struct{ families []*dto.MetricFamily }

// add sets a metric; labels are names and values in turn.
func (m *metrics) add(name, help string, value float64, labels ...string) {
	var family *dto.MetricFamily
	for _, f := range m.families {
		if f.GetName() == name {
			family = f
		}
	}
	if family == nil {
		kind := dto.MetricType_GAUGE
		family = &dto.MetricFamily{Name: &name, Help: &help, Type: &kind}
		m.families = append(m.families, family)
	}
	one := &dto.Metric{Gauge: &dto.Gauge{Value: &value}}
	for i := 0; i < len(labels); i += 2 {
		one.Label = append(one.Label, &dto.LabelPair{Name: &labels[i], Value: &labels[i+1]})
	}
	family.Metric = append(family.Metric, one)
}

func (m *metrics) time(name, help string, t time.Time, labels ...string) {
	m.add(name, help, float64(t.UnixMilli())/1000, labels...)
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// metricsOf makes metrics of a report; r is nil when there is none because of err.
func metricsOf(r *statusReport, err error, begun time.Time) *metrics {
	m := &metrics{}
	m.add("wal_e_up", "Whether the last wal-e status found out how the archive is.", truth(r != nil))
	m.time("wal_e_status_timestamp_seconds", "When that began.", begun)
	m.add("wal_e_status_duration_seconds", "How long it took.", time.Since(begun).Seconds())
	if r == nil {
		m.add("wal_e_status_error", "Why it found out nothing, by the number that wal-e explain knows.", 1, "code", kindOf(err).String())
		return m
	}
	m.add("wal_e_problems", "Problems that wal-e status has to tell of.", float64(len(r.Problems)))
	m.add("wal_e_warnings", "Warnings that it has to tell of.", float64(len(r.Warnings)))
	for _, c := range r.Clusters {
		c.addTo(m)
	}
	m.add("wal_e_pack_bytes", "Stored in packs, that is base backups.", float64(r.Packs))
	m.add("wal_e_wal_bytes", "Stored in WAL files.", float64(r.WAL))
	m.add("wal_e_logical_bytes", "What all base backups restore to, together.", float64(r.Logical))
	if r.Packs > 0 {
		m.add("wal_e_dedup_ratio", "Logical bytes by bytes in packs.", float64(r.Logical)/float64(r.Packs))
	}
	m.add("wal_e_growth_bytes_per_day", "Stored in the last seven days and still there, per day.", float64(r.Growth))
	stalled, oldest := 0, r.now
	for _, p := range r.Open {
		if p.Stalled {
			stalled++
		}
		if p.Since.Before(oldest) {
			oldest = p.Since
		}
	}
	m.add("wal_e_pushes_open", "Pushes under way, or killed.", float64(len(r.Open)))
	m.add("wal_e_pushes_stalled", "Those of them that have been open for more than a day.", float64(stalled))
	if len(r.Open) > 0 {
		m.time("wal_e_push_oldest_timestamp_seconds", "Since when the oldest of them has been open, by the store's clock.", oldest)
	}
	if r.Waiting != nil {
		m.add("wal_e_wal_waiting_files", "WAL files that wait in the data directory to be archived.", float64(*r.Waiting))
	}
	if r.Oldest != nil {
		m.time("wal_e_wal_waiting_oldest_timestamp_seconds", "Since when the oldest of them has been waiting.", *r.Oldest)
	}
	if d := r.drilled; d != nil {
		m.time("wal_e_drill_timestamp_seconds", "When the last drill began.", d.Begun)
		m.add("wal_e_drill_ok", "Whether it succeeded.", truth(d.OK))
		m.add("wal_e_drill_restore_seconds", "How long it took to restore the files.", d.FetchSeconds)
		m.add("wal_e_drill_recover_seconds", "How long it took to recover.", d.RecoverSeconds)
	}
	if c := r.copied; c != nil {
		m.time("wal_e_copy_timestamp_seconds", "When the last copy to another prefix was made that was recorded.", c.At)
	}
	if r.Fresh != nil {
		m.time("wal_e_fresh_backup_timestamp_seconds", "When the newest base backup was stored that needs no packs of others.", *r.Fresh)
	}
	if v := r.Verified; v != nil {
		m.time("wal_e_verify_timestamp_seconds", "When the last verify ended that wrote anything down.", v.Last)
		m.add("wal_e_verify_packs", "Packs that base backups need.", float64(v.Packs))
		m.add("wal_e_verify_never_read_packs", "Those of them that none has found whole yet.", float64(v.NeverRead))
		if v.Oldest != nil {
			m.time("wal_e_verify_oldest_timestamp_seconds", "When that one of the others was read that waited longest.", *v.Oldest)
		}
	}
	if v := r.verifyResult(); v != nil {
		m.time("wal_e_verify_all_timestamp_seconds", "When the last verify --all ended.", v.At)
		m.add("wal_e_verify_problems", "Problems that it found and couldn't mend.", float64(v.Problems))
	}
	if e := r.Expiry; e != nil {
		m.add("wal_e_backups_overdue", "Base backups that the policy of --retain lets go now.", float64(e.Overdue))
		if e.At != nil {
			m.time("wal_e_expiry_next_timestamp_seconds", "When the next one expires.", *e.At)
		}
	}
	return m
}

// addTo adds the metrics of a cluster.
func (c *statusCluster) addTo(m *metrics) {
	system := []string{"system", c.System}
	m.add("wal_e_backups", "Base backups in the new layout.", float64(c.Backups), system...)
	if l := c.last; c.Backups > 0 {
		m.time("wal_e_backup_timestamp_seconds", "When the last base backup was complete.", l.Stopped, system...)
		m.add("wal_e_backup_duration_seconds", "How long it took.", l.Stopped.Sub(l.Started).Seconds(), system...)
		m.add("wal_e_backup_bytes", "What it restores to.", float64(l.ExpandedSize), system...)
		m.add("wal_e_backup_stored_bytes", "What it added to the archive.", float64(l.StoredBytes), system...)
		m.add("wal_e_backup_page_failures", "Pages in it whose checksum was wrong.", float64(l.PageFailures), system...)
	}
	if c.Newest != nil {
		m.time("wal_e_wal_timestamp_seconds", "When the newest WAL was archived, by the store's clock.", *c.Newest, system...)
	}
	m.add("wal_e_wal_missing_segments", "WAL segments that are missing and that a base backup needs on its way.", float64(c.Missing), system...)
	if c.From != nil && c.Until != nil {
		m.time("wal_e_restore_from_timestamp_seconds", "The first moment that can be restored.", *c.From, system...)
		m.time("wal_e_restore_until_timestamp_seconds", "The last one; in between there may be gaps.", *c.Until, system...)
	}
}

// writeMetrics replaces the file with the metrics of a report, at once: who reads
// it meets the old or the new one. Others may read it, whatever the umask.
func writeMetrics(path string, r *statusReport, err error, begun time.Time) error {
	var text bytes.Buffer
	for _, f := range metricsOf(r, err, begun).families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			return err
		}
	}
	if err := replaceFile(path, text.Bytes()); err != nil {
		return &message{
			kind: fault.LocalFile, text: "metrics are not written: " + err.Error(),
			hint: "Name a file in a folder that this user may write to, with --metrics-file.", err: err,
		}
	}
	return nil
}

func replaceFile(path string, data []byte) (err error) {
	// A collector takes only *.prom, so it passes over the temporary file.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if rerr := os.Remove(f.Name()); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
