package seal

import (
	"encoding/hex"
	"encoding/json"
	"fmt"

	"wal-e/internal/fault"
)

// secretsVersion is the version of the JSON form of Keys.
const secretsVersion = 1

// maxSecrets bounds the JSON form in bytes.
const maxSecrets = 64 << 10

// secrets is the JSON form of Keys: on a host with the public key, sealed in
// the archive with the private one.
type secrets struct {
	Version int    `json:"version"`
	Epoch   string `json:"epoch"`
	Dedup   string `json:"dedup_key"`
	Public  string `json:"public_key"`
	Private string `json:"private_key,omitempty"`
}

// MarshalJSON writes the secrets, all in lower-case hex. What it returns must
// be kept as secret as they are.
func (k *Keys) MarshalJSON() ([]byte, error) {
	s := secrets{
		Version: secretsVersion, Epoch: k.epoch.String(), Dedup: hex.EncodeToString(k.dedup[:]),
		Public: hex.EncodeToString(k.public.Bytes()),
	}
	if k.private != nil {
		b, err := k.private.Bytes()
		if err != nil {
			return nil, fmt.Errorf("encode the epoch's key: %w", err)
		}
		s.Private = hex.EncodeToString(b)
	}
	return json.Marshal(s)
}

// UnmarshalJSON reads what MarshalJSON wrote. No error of its own holds a
// secret.
func (k *Keys) UnmarshalJSON(b []byte) error {
	if len(b) > maxSecrets {
		return fault.BadMessage.Errorf("secrets of %d bytes: at most %d", len(b), maxSecrets)
	}
	var s secrets
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("secrets of an epoch: %w", err)
	}
	if s.Version != secretsVersion {
		return fault.Newer.Errorf("secrets are of version %d, this program knows %d: use a newer wal-e", s.Version, secretsVersion)
	}
	var got Keys
	var err error
	if got.epoch, err = ParseEpoch(s.Epoch); err != nil {
		return err
	}
	dedup, err := secret("dedup_key", s.Dedup)
	if err != nil {
		return err
	}
	got.dedup = [KeySize]byte(dedup)
	public, err := secret("public_key", s.Public)
	if err != nil {
		return err
	}
	if got.public, err = kem().NewPublicKey(public); err != nil {
		return fault.BadMessage.Errorf("public_key of epoch %s is no key", got.epoch)
	}
	if got.name() != got.epoch {
		return fault.BadMessage.Errorf("secrets of epoch %s aren't those that it is named for: they were altered or forged", got.epoch)
	}
	if s.Private != "" {
		private, err := secret("private_key", s.Private)
		if err != nil {
			return err
		}
		if got.private, err = kem().NewPrivateKey(private); err != nil {
			return fault.BadMessage.Errorf("private_key of epoch %s is no key", got.epoch)
		}
		if string(got.private.PublicKey().Bytes()) != string(got.public.Bytes()) {
			return fault.BadMessage.Errorf("keys of epoch %s don't belong together", got.epoch)
		}
	}
	*k = got
	return nil
}

func secret(name, s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != KeySize {
		return nil, fault.BadMessage.Errorf("%s: want %d hex digits", name, 2*KeySize)
	}
	return b, nil
}
