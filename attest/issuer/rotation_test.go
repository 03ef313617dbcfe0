package issuer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

const week = 7 * 24 * time.Hour

func open(t *testing.T, dir string, at time.Time) *Issuer {
	t.Helper()
	i, err := Open(dir, "software", url, Rotation{Every: week}, at)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func pins(t *testing.T, i *Issuer, at time.Time) token.Authority {
	t.Helper()
	keys, err := i.SigningKeys(at)
	if err != nil {
		t.Fatal(err)
	}
	a, err := token.NewAuthority(initdata.Service{URL: url, SigningKeys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sign(t *testing.T, i *Issuer, at time.Time, life time.Duration) string {
	t.Helper()
	claims := map[string]any{}
	if err := i.Stamp(claims, at, life); err != nil {
		t.Fatal(err)
	}
	compact, err := i.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func kids(i *Issuer, at time.Time) []string {
	var out []string
	for _, k := range i.published(at, true) {
		out = append(out, k.kid)
	}
	return out
}

func advance(t *testing.T, i *Issuer, at time.Time, want bool) {
	t.Helper()
	if changed, err := i.Advance(at); err != nil || changed != want {
		t.Fatalf("at %s: changed %t, %v; want %t", at, changed, err, want)
	}
}

// A new key is published a whole period before it signs, and an old one until its last token has expired.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	i := open(t, dir, now)
	begin := kids(i, now)
	if len(begin) != 2 {
		t.Fatalf("%d keys at the start, want the one in use and the next", len(begin))
	}
	pinnedAtStart := pins(t, i, now)
	advance(t, i, now.Add(week-time.Second), false)
	first := sign(t, i, now.Add(week-time.Second), TokenLife)
	turn := now.Add(week)
	second := sign(t, i, turn, TokenLife)
	advance(t, i, turn, true)
	for name, compact := range map[string]string{"the first key's": first, "the second key's": second} {
		if _, err := token.Verify(compact, []token.Authority{pinnedAtStart}, turn); err != nil {
			t.Errorf("%s token, by pins from the start: %v", name, err)
		}
	}
	if got := kids(i, turn); len(got) != 3 || got[0] != begin[1] || got[2] != begin[0] || slices.Contains(begin, got[1]) {
		t.Errorf("published at the turn: %v, at the start: %v", got, begin)
	}
	if got, err := i.SigningKeys(turn); err != nil || len(got) != 2 {
		t.Errorf("%d pins at the turn, %v", len(got), err)
	}
	last := turn.Add(-time.Second).Add(TokenLife)
	advance(t, i, last, false)
	if _, err := os.Stat(i.keyPath(1)); err != nil {
		t.Errorf("the old key's file: %v", err)
	}
	advance(t, i, last.Add(expirySlack+clockSlack+2*time.Second), true)
	if _, err := os.Stat(i.keyPath(1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old key's file after its last token: %v", err)
	}
	third := sign(t, i, now.Add(2*week), TokenLife)
	if _, err := token.Verify(third, []token.Authority{pinnedAtStart}, now.Add(2*week)); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("a token of a key that was never pinned: %v", err)
	}
	if _, err := token.Verify(third, []token.Authority{pins(t, i, turn)}, now.Add(2*week)); err != nil {
		t.Errorf("twin, pinned a period later: %v", err)
	}
}

// A policy may let tokens live long; their key stays published as long, also over a restart.
func TestLongLivedTokenKeepsItsKey(t *testing.T) {
	dir := t.TempDir()
	i := open(t, dir, now)
	first := kids(i, now)[0]
	sign(t, i, now, 30*24*time.Hour)
	open(t, dir, now.Add(week))
	i = open(t, dir, now.Add(2*week))
	if got := kids(i, now.Add(2*week)); !slices.Contains(got, first) {
		t.Error("the key of a living token is gone")
	}
	i = open(t, dir, now.Add(31*24*time.Hour))
	if got := kids(i, now.Add(31*24*time.Hour)); slices.Contains(got, first) {
		t.Error("the key of an expired token is still published")
	}
}

// Each durable step may be the last before a crash.
func TestRotationAfterACrash(t *testing.T) {
	dir := t.TempDir()
	i := open(t, dir, now)
	begin := kids(i, now)
	sign(t, i, now.Add(week-time.Second), TokenLife)
	t.Run("the next key's file without its place in the schedule", func(t *testing.T) {
		orphan, err := LoadOrMakeKey(i.keyPath(3))
		if err != nil {
			t.Fatal(err)
		}
		i = open(t, dir, now.Add(week))
		keys := i.published(now.Add(2*week), false)
		if len(keys) != 1 || !keys[0].key.Equal(orphan) {
			t.Error("the key that was made is not the one that follows")
		}
	})
	t.Run("an old key's file behind a schedule without it", func(t *testing.T) {
		old, err := os.ReadFile(i.keyPath(1))
		if err != nil {
			t.Fatal(err)
		}
		later := now.Add(week + 24*time.Hour)
		i = open(t, dir, later)
		if slices.Contains(kids(i, later), begin[0]) {
			t.Fatal("the old key is still published")
		}
		if err := os.WriteFile(i.keyPath(1), old, 0o600); err != nil {
			t.Fatal(err)
		}
		i = open(t, dir, later)
		if _, err := os.Stat(i.keyPath(1)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old key's file: %v", err)
		}
	})
	t.Run("a published key's file is gone", func(t *testing.T) {
		at := now.Add(week + 25*time.Hour)
		if err := os.Rename(i.keyPath(3), filepath.Join(dir, "elsewhere")); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, "software", url, Rotation{Every: week}, at); err == nil {
			t.Error("another key was made in its place")
		}
		if err := os.Rename(filepath.Join(dir, "elsewhere"), i.keyPath(3)); err != nil {
			t.Fatal(err)
		}
		open(t, dir, at)
	})
}

func TestScheduleFile(t *testing.T) {
	dir := t.TempDir()
	i := open(t, dir, now)
	good, err := os.ReadFile(i.schedulePath())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"empty": "", "no keys": `{"keys":[]}`, "cut": string(good[:len(good)/2]), "twice": strings.Replace(string(good), `"number": 2`, `"number": 1`, 1)} {
		if err := os.WriteFile(i.schedulePath(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, "software", url, Rotation{Every: week}, now); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := os.WriteFile(i.schedulePath(), good, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, now)
	if _, err := Open(dir, "software", url, Rotation{Every: time.Minute}, now); err == nil {
		t.Error("a key a minute was taken")
	}
}

// A disk that takes no writes: no token whose key might go too early, and none is lost that needs no writing.
func TestNoTokenThatIsNotNoted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	i := open(t, dir, now)
	sign(t, i, now, TokenLife)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	sign(t, i, now.Add(time.Minute), TokenLife)
	claims := map[string]any{}
	if err := i.Stamp(claims, now, 2*TokenLife); err != nil {
		t.Fatal(err)
	}
	if compact, err := i.Sign(claims); err == nil {
		t.Errorf("signed %q", compact)
	}
}
