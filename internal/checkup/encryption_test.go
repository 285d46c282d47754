package checkup_test

import (
	"errors"
	"strings"
	"testing"

	"wal-e/internal/checkup"
)

// Whatever keeps a push or a restore from working is a failure, and that nothing
// is known of the private key a warning.
func TestEncryption(t *testing.T) {
	t.Parallel()
	errLocked := errors.New("locked")
	whole := checkup.EncryptionFacts{
		Recipients: []string{"A <a@example.com>"}, KeyIDs: []string{"1"}, Host: []string{"e1"}, KeyFile: "/state/keys",
		Epochs: []checkup.Epoch{{Name: "e1", KeyIDs: []string{"1"}}}, Backups: map[string]int{"e1": 3},
	}
	for name, test := range map[string]struct {
		change func(*checkup.EncryptionFacts)
		want   checkup.Status
		words  string
	}{
		"whole":               {func(*checkup.EncryptionFacts) {}, checkup.OK, "3 of epoch e1"},
		"loss of the key":     {func(*checkup.EncryptionFacts) {}, checkup.OK, "so are the backups"},
		"not used":            {func(f *checkup.EncryptionFacts) { *f = checkup.EncryptionFacts{Backups: map[string]int{"": 2}} }, checkup.OK, "no: whoever"},
		"no right to list":    {func(f *checkup.EncryptionFacts) { f.EpochsErr = errLocked }, checkup.Warning, "can't be told: locked"},
		"expired key":         {func(f *checkup.EncryptionFacts) { f.RecipientsErr = errors.New("has expired") }, checkup.Failure, "pushes will fail: has expired"},
		"expires soon":        {func(f *checkup.EncryptionFacts) { f.Expiring = []string{"A has expired"} }, checkup.Warning, "within a month"},
		"nobody named":        {func(f *checkup.EncryptionFacts) { f.Recipients, f.KeyIDs = nil, nil }, checkup.Warning, "this host can't push"},
		"key file is open":    {func(f *checkup.EncryptionFacts) { f.HostErr = errors.New("mode 0644") }, checkup.Failure, "mode 0644"},
		"key file is lost":    {func(f *checkup.EncryptionFacts) { f.Host = nil }, checkup.Failure, "/state/keys isn't there"},
		"before the first":    {func(f *checkup.EncryptionFacts) { f.Host, f.Epochs, f.Backups = nil, nil, nil }, checkup.OK, "the first push makes them"},
		"secrets are gone":    {func(f *checkup.EncryptionFacts) { f.Epochs = nil }, checkup.Failure, "gone from the archive"},
		"backups are lost":    {func(f *checkup.EncryptionFacts) { f.Backups["e0"] = 2 }, checkup.Failure, "2 are of epochs whose secrets are gone"},
		"not all recipients":  {func(f *checkup.EncryptionFacts) { f.KeyIDs = []string{"1", "2"} }, checkup.Warning, "isn't sealed to 2"},
		"an unknown epoch":    {func(f *checkup.EncryptionFacts) { f.Epochs = append(f.Epochs, checkup.Epoch{Name: "e2"}) }, checkup.Warning, "isn't known on this host"},
		"no private key":      {func(f *checkup.EncryptionFacts) { f.Epochs[0].Opened, f.Epochs[0].NoKey = errLocked, true }, checkup.Warning, "sealed to 1"},
		"trial fails":         {func(f *checkup.EncryptionFacts) { f.Epochs[0].Opened = errLocked }, checkup.Failure, "failed: locked"},
		"damaged secrets":     {func(f *checkup.EncryptionFacts) { f.Epochs[0].Damage = errLocked }, checkup.Failure, "damaged"},
		"mixed":               {func(f *checkup.EncryptionFacts) { f.Backups[""] = 1 }, checkup.Warning, "3 of epoch e1, 1 in the clear"},
		"mixed, and required": {func(f *checkup.EncryptionFacts) { f.Backups[""], f.Required = 1, true }, checkup.OK, "1 in the clear"},
		"unreadable backups":  {func(f *checkup.EncryptionFacts) { f.BackupsErr = errLocked }, checkup.Warning, "can't be told of all"},
	} {
		f := whole
		f.Epochs = append([]checkup.Epoch(nil), whole.Epochs...)
		f.Backups = map[string]int{"e1": 3}
		test.change(&f)
		found := checkup.Encryption(f)
		var text strings.Builder
		for _, one := range found {
			text.WriteString(one.Found + "\n")
			if (one.Status != checkup.OK) != (one.Fix != "") {
				t.Errorf("%s: %s %s %q has the advice %q", name, one.Status, one.Check, one.Found, one.Fix)
			}
		}
		if got := found.Worst(); got != test.want || !strings.Contains(text.String(), test.words) {
			t.Errorf("%s: %s, want %s and %q:\n%s", name, got, test.want, test.words, text.String())
		}
	}
}
