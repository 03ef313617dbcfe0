package vmgs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
)

var (
	vmA = VMID{0xa, 1}
	vmB = VMID{0xb, 2}
)

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, KeySize) }

func small(generation uint64, mark byte) Contents {
	return Contents{Generation: generation, Mode: "DiskWithVMGuestState", InitDataDigest: [32]byte{7}, VTPM: []byte{mark}, UEFIVars: []byte{mark, mark}}
}

func create(t *testing.T, updates ...Contents) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest.vmgs")
	f := open(t, path)
	if f.Generation() != 0 {
		t.Fatalf("generation of no file: %d", f.Generation())
	}
	if err := f.Create(testKey(1), small(1, 1)); err != nil {
		t.Fatal(err)
	}
	for _, u := range updates {
		if err := f.Update(func(c *Contents) { *c = u }); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	return path
}

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path, vmA)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRoundTrip(t *testing.T) {
	path := create(t, small(1, 2), small(2, 3), small(2, 4))
	f := open(t, path)
	if f.Generation() != 2 {
		t.Errorf("peeked generation %d", f.Generation())
	}
	c, err := f.Unlock(testKey(1))
	if err != nil || !c.equal(small(2, 4)) {
		t.Errorf("contents %+v, %v", c, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestHD18PlaintextIsNotInTheFile(t *testing.T) {
	c := small(1, 2)
	c.VTPM = []byte("CANARY-OF-THE-VTPM")
	path := create(t, c, c)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, c.VTPM) {
		t.Error("the state is in the file in clear")
	}
}

func TestRefusals(t *testing.T) {
	edit := func(change func(raw []byte) []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, change(raw), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	resum := func(raw []byte, slot int) []byte {
		s := raw[slot*SlotSize:]
		n := binary.BigEndian.Uint32(s[48:])
		sum := checksum(s[:boundSize], s[HeaderSize:HeaderSize+n])
		copy(s[boundSize:], sum[:])
		return raw
	}
	for _, r := range []struct {
		name string
		do   func(t *testing.T, path string)
		vm   VMID
		key  []byte
		want evidence.Code
	}{
		{"the file as it is", edit(func(raw []byte) []byte { return raw }), vmA, testKey(1), ""},
		{"HD-09 copied to another VM", edit(func(raw []byte) []byte { return raw }), vmB, testKey(1), evidence.CodeBinding},
		{"HD-09 VM id rewritten by the host", edit(func(raw []byte) []byte {
			for i := range 2 {
				copy(raw[i*SlotSize+16:], vmB[:])
				resum(raw, i)
			}
			return raw
		}), vmB, testKey(1), evidence.CodeBinding},
		{"HD-08 generation rewritten by the host", edit(func(raw []byte) []byte { raw[SlotSize+39]++; return resum(raw, 1) }), vmA, testKey(1), evidence.CodeBinding},
		{"sequence rewritten by the host", edit(func(raw []byte) []byte { raw[47] = 99; return resum(raw, 0) }), vmA, testKey(1), evidence.CodeBinding},
		{"wrong guest-state key", edit(func(raw []byte) []byte { return raw }), vmA, testKey(2), evidence.CodeBinding},
		{"HD-16 all-zero key", edit(func(raw []byte) []byte { return raw }), vmA, make([]byte, KeySize), evidence.CodeUnsupported},
		{"short key", edit(func(raw []byte) []byte { return raw }), vmA, testKey(1)[:16], evidence.CodeUnsupported},
		{"truncated", edit(func(raw []byte) []byte { return raw[:len(raw)-1] }), vmA, testKey(1), evidence.CodeParse},
		{"empty file", edit(func([]byte) []byte { return nil }), vmA, testKey(1), evidence.CodeParse},
		{"all zero", edit(func(raw []byte) []byte { return make([]byte, len(raw)) }), vmA, testKey(1), evidence.CodeParse},
		{"longer", edit(func(raw []byte) []byte { return append(raw, 0) }), vmA, testKey(1), evidence.CodeParse},
		{"both slots bad", edit(func(raw []byte) []byte { raw[100]++; raw[SlotSize+100]++; return raw }), vmA, testKey(1), evidence.CodeParse},
		{"unknown version of the newest slot", edit(func(raw []byte) []byte { raw[SlotSize+11] = 2; return resum(raw, 1) }), vmA, testKey(1), evidence.CodeUnsupported},
		{"slots exchanged", edit(func(raw []byte) []byte { return append(append([]byte{}, raw[SlotSize:]...), raw[:SlotSize]...) }), vmA, testKey(1), evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			path := create(t, small(2, 2))
			r.do(t, path)
			f, err := Open(path, r.vm)
			if err == nil {
				defer f.Close()
				_, err = f.Unlock(r.key)
			}
			if got := evidence.CodeOf(err); got != r.want || (err == nil) != (r.want == "") {
				t.Errorf("error %v, want %q", err, r.want)
			}
		})
	}
}

func TestOneOpener(t *testing.T) {
	path := create(t)
	first := open(t, path)
	if _, err := Open(path, vmA); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("HD-09 second opener: %v", err)
	}
	first.Close()
	open(t, path)
}

func TestCreateRefusesAnExistingFile(t *testing.T) {
	f := open(t, create(t))
	if err := f.Create(testKey(1), small(1, 1)); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("got %v", err)
	}
}

func TestUpdateRefuses(t *testing.T) {
	f := open(t, create(t, small(5, 1)))
	if err := f.Update(func(c *Contents) { c.Generation++ }); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("update of a locked file: %v", err)
	}
	if _, err := f.Unlock(testKey(1)); err != nil {
		t.Fatal(err)
	}
	if err := f.Update(func(c *Contents) { c.Generation-- }); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("HD-08 generation went back: %v", err)
	}
	if err := f.Update(func(c *Contents) { c.UEFIVars = make([]byte, SlotSize) }); err == nil {
		t.Error("contents larger than a slot were taken")
	}
	f.file.Close() // the next write fails as a full or lost disk would
	if err := f.Update(func(c *Contents) { c.VTPM = []byte{1, 2} }); err == nil {
		t.Error("a failed write was acknowledged")
	}
	if err := f.Update(func(c *Contents) { c.VTPM = []byte{1, 2} }); err == nil {
		t.Error("a write after a failed write was acknowledged")
	}
}

// TestReplacedWhileOpen: what is unlocked is the very copy that was looked at.
func TestReplacedWhileOpen(t *testing.T) {
	path := create(t, small(2, 2))
	f := open(t, path)
	raw, _ := os.ReadFile(path)
	raw[SlotSize+100]++
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := f.Unlock(testKey(1)); err != nil || !c.equal(small(2, 2)) {
		t.Errorf("HD-02 read again: %+v, %v", c, err)
	}
}

// TestTornWrite cuts a write at every byte: the older state is always there, or the newer one whole.
func TestTornWrite(t *testing.T) {
	for _, history := range []int{0, 3} { // onto an empty slot, and onto an older state
		t.Run(fmt.Sprintf("after %d updates", history), func(t *testing.T) {
			f := open(t, filepath.Join(t.TempDir(), "g"))
			if err := f.Create(testKey(1), small(1, 1)); err != nil {
				t.Fatal(err)
			}
			for i := range history {
				if err := f.Update(func(c *Contents) { c.VTPM = []byte{byte(10 + i)} }); err != nil {
					t.Fatal(err)
				}
			}
			older := f.Contents()
			raw := make([]byte, FileSize)
			if _, err := f.file.ReadAt(raw, 0); err != nil {
				t.Fatal(err)
			}
			target := 1 - f.newest
			newer := older.clone()
			newer.Generation, newer.VTPM = 2, []byte{99}
			slot, err := f.sealLocked(f.key, target, f.sequence+1, newer)
			if err != nil {
				t.Fatal(err)
			}
			for cut := 0; cut <= len(slot); cut++ {
				after := bytes.Clone(raw[target*SlotSize : (target+1)*SlotSize])
				copy(after, slot[:cut])
				g := &File{vm: vmA, file: f.file}
				g.slots[1-target], g.slotErrs[1-target] = readSlot(raw[(1-target)*SlotSize:(2-target)*SlotSize], 1-target)
				g.slots[target], g.slotErrs[target] = readSlot(after, target)
				if err := g.checkSlots(); err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				peeked := g.Generation()
				c, err := g.Unlock(testKey(1))
				if err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				if c.Generation != peeked {
					t.Fatalf("cut at %d: peeked %d, unlocked %d", cut, peeked, c.Generation)
				}
				if want := cut == len(slot); c.equal(newer) != want || c.equal(older) == want {
					t.Fatalf("cut at %d of %d: %+v", cut, len(slot), c)
				}
			}
		})
	}
}

func TestCrashBeforeRename(t *testing.T) {
	path := create(t)
	if err := os.Rename(path, path+".new"); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	if f.Generation() != 0 {
		t.Errorf("an unpublished file counts: generation %d", f.Generation())
	}
	if err := f.Create(testKey(1), small(1, 9)); err != nil {
		t.Error(err)
	}
}

func FuzzReadSlot(f *testing.F) {
	h := header{vm: vmA, generation: 1, sequence: 1}
	good, err := h.seal(testKey(1), small(1, 1).marshal())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:HeaderSize])
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := readSlot(raw, 0)
		if err != nil || s == nil {
			var r *evidence.Refusal
			if err != nil && !errors.As(err, &r) {
				t.Errorf("not a refusal: %v", err)
			}
			return
		}
		_, _ = s.open(testKey(1))
	})
}

func FuzzParseContents(f *testing.F) {
	f.Add(small(1, 1).marshal())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := parseContents(raw); err == nil && !bytes.Equal(c.marshal(), raw) {
			t.Error("another reading of the same bytes")
		}
	})
}
