package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cloister.dev/cloister/internal/failpoint"
)

// MinRotation is the shortest time for which a key may sign: below it, keys would pile up.
const MinRotation = time.Hour

// Rotation is a schedule. Each key is published for Every before it signs, then signs for Every, and stays
// published until the last token it signed has expired. So there is always a next key to pin. Zero: one key for ever.
type Rotation struct{ Every time.Duration }

// record is what the schedule says of a key.
type record struct {
	Number int       `json:"number"`
	From   time.Time `json:"from"` // it signs from here on, until the next key's From
	// LastExpiry is no earlier than the expiry of any token that the key signed.
	LastExpiry time.Time `json:"lastExpiry"`
}

type schedule struct {
	Keys []record `json:"keys"`
}

// expirySlack is written into LastExpiry beyond what a token needs, so that the schedule is written at most once
// in this time per life that policies ask for.
const expirySlack = time.Hour

// clockSlack keeps a key published a little longer than its tokens live, for readers whose clocks are behind.
const clockSlack = 10 * time.Minute

var (
	afterSchedule = failpoint.New("attest/key-schedule")
	afterRetired  = failpoint.New("attest/key-retired")
)

// load reads the schedule and its keys. Without a schedule there is the first key, which may have signed tokens of
// any life before.
func (i *Issuer) load(now time.Time) error {
	if i.rotation.Every != 0 && i.rotation.Every < MinRotation {
		return fmt.Errorf("rotation every %s, want at least %s", i.rotation.Every, MinRotation)
	}
	var s schedule
	raw, err := os.ReadFile(i.schedulePath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Keys = []record{{Number: 1, From: now.UTC(), LastExpiry: now.Add(MaxLife).UTC()}}
		if _, err := os.Stat(i.keyPath(1)); errors.Is(err, fs.ErrNotExist) {
			s.Keys[0].LastExpiry = now.UTC()
		}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("%s: %w", i.schedulePath(), err)
		}
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("%s: %w", i.schedulePath(), err)
	}
	fresh := raw == nil
	for _, r := range s.Keys {
		if _, err := os.Stat(i.keyPath(r.Number)); err != nil && !fresh {
			return err // a key that was published must not be replaced by another one
		}
		if err := i.add(r, now); err != nil {
			return err
		}
	}
	if fresh {
		return i.save()
	}
	return i.sweep()
}

func (s schedule) check() error {
	if len(s.Keys) == 0 {
		return errors.New("no keys")
	}
	for n, r := range s.Keys {
		if r.Number < 1 || n > 0 && (r.Number <= s.Keys[n-1].Number || !r.From.After(s.Keys[n-1].From)) {
			return fmt.Errorf("key %d does not follow the one before it", r.Number)
		}
	}
	return nil
}

func (i *Issuer) add(r record, now time.Time) error {
	key, err := LoadOrMakeKey(i.keyPath(r.Number))
	if err != nil {
		return err
	}
	k, err := newSigningKey(key, i.url, r, now)
	if err != nil {
		return err
	}
	i.keys = append(i.keys, k)
	return nil
}

// sweep removes key files that a crash left behind a schedule that no longer names them.
func (i *Issuer) sweep() error {
	files, err := filepath.Glob(filepath.Join(i.dir, i.name+".key-*.pem"))
	if err != nil {
		return err
	}
	first := i.keys[0].Number
	if first > 1 {
		files = append(files, i.keyPath(1))
	}
	for _, f := range files {
		middle := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), i.name+".key-"), ".pem")
		n, err := strconv.Atoi(middle)
		if f == i.keyPath(1) {
			n, err = 1, nil
		}
		if err != nil || n >= first {
			continue
		}
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// save writes the schedule. A crash leaves the old or the new one.
func (i *Issuer) save() error {
	if i.dir == "" {
		return nil
	}
	var s schedule
	for _, k := range i.keys {
		s.Keys = append(s.Keys, k.record)
	}
	raw, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	if err := replace(i.schedulePath(), raw); err != nil {
		return err
	}
	afterSchedule.Hit()
	return nil
}

// Advance brings the schedule up to now: a key whose successor took over and whose last token has expired goes, and
// a key comes where the last one is in use. It tells whether the published keys changed. When it fails, the
// keys there are go on signing.
func (i *Issuer) Advance(now time.Time) (changed bool, err error) {
	i.advancing.Lock()
	defer i.advancing.Unlock()
	if i.dir == "" {
		return false, nil
	}
	i.mu.RLock()
	last := i.keys[len(i.keys)-1]
	i.mu.RUnlock()
	wanted := i.rotation.Every != 0 && !last.From.After(now)
	if wanted { // making a key is slow: not under the lock that signing takes
		if _, err := LoadOrMakeKey(i.keyPath(last.Number + 1)); err != nil {
			return false, err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	gone := 0
	for turn := i.turn(now); gone < turn && now.After(i.keys[gone].LastExpiry.Add(clockSlack)); {
		gone++
	}
	if gone > 0 {
		was := i.keys
		i.keys = i.keys[gone:]
		if err := i.save(); err != nil {
			i.keys = was
			return false, err
		}
		for _, k := range was[:gone] {
			if err := os.Remove(i.keyPath(k.Number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return true, err
			}
		}
		afterRetired.Hit()
	}
	if !wanted {
		return gone > 0, nil
	}
	was := i.keys
	// The key's file comes first: one without a place in the schedule is taken up at the next try.
	err = i.add(record{Number: last.Number + 1, From: now.Add(i.rotation.Every).UTC(), LastExpiry: now.UTC()}, now)
	if err == nil {
		err = i.save()
	}
	if err != nil {
		i.keys = was
		return gone > 0, err
	}
	return true, nil
}

// turn is the index of the key that signs at a time: the last one whose time has begun, or the first where the
// clock was put back before all of them.
func (i *Issuer) turn(at time.Time) int {
	for n := len(i.keys) - 1; n > 0; n-- {
		if !i.keys[n].From.After(at) {
			return n
		}
	}
	return 0
}

// keyFor finds the key to sign with, and makes sure that it stays published until the token's end.
func (i *Issuer) keyFor(iat, exp time.Time) (*signingKey, error) {
	i.mu.RLock()
	k := i.keys[i.turn(iat)]
	known := !exp.After(k.LastExpiry)
	i.mu.RUnlock()
	if known || i.dir == "" {
		return k, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	k = i.keys[i.turn(iat)]
	if !exp.After(k.LastExpiry) {
		return k, nil
	}
	was := k.LastExpiry
	k.LastExpiry = exp.Add(expirySlack).UTC()
	if err := i.save(); err != nil {
		k.LastExpiry = was
		return nil, fmt.Errorf("noting how long a signing key is needed: %w", err)
	}
	return k, nil
}

// replace writes a file whole and synced in the place of another.
func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
