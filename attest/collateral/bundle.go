package collateral

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	endorsed "cloister.dev/cloister/evidence/collateral"
	"cloister.dev/cloister/evidence/sevsnp"
)

// BundleVersion marks a bundle's form.
const BundleVersion = "cloister.dev/collateral/v1"

// Bounds of a bundle.
const (
	MaxBundle        = 64 << 20 // bytes
	maxBundleEntries = 8192
)

// Row tells of one endorsement in the folder, or in a bundle.
type Row struct {
	ID         string    `json:"id"`
	From       time.Time `json:"from"`
	Until      time.Time `json:"until"`
	State      string    `json:"state"` // good, expired, early, or what is wrong
	Evaluation uint32    `json:"evaluation,omitempty"`
	CRLNumber  string    `json:"crlNumber,omitempty"`
	SHA256     string    `json:"sha256"`
	File       string    `json:"file"`
}

// State of an endorsement that is of use.
const StateGood = "good"

// bundle is a portable file. Its entries are in the order of their ids, so that one folder makes one file.
type bundle struct {
	Version string        `json:"version"`
	Entries []bundleEntry `json:"entries"`
}

type bundleEntry struct {
	ID           string    `json:"id"`
	From         time.Time `json:"from"`
	Until        time.Time `json:"until"`
	SHA256       string    `json:"sha256"`
	Issuers256   string    `json:"issuersSha256,omitempty"`
	Bytes        []byte    `json:"bytes"`
	IssuersBytes []byte    `json:"issuers,omitempty"`
}

// found is an endorsement by content, not checked yet.
type found struct {
	id           ID
	raw, issuers []byte
	file         string
}

// rank puts first what others are checked by.
func rank(id ID) int {
	switch id.Kind() {
	case KindAuthorities:
		return 0
	case KindRootCRL:
		return 2
	}
	return 1
}

func inOrder(list []found) []found {
	slices.SortStableFunc(list, func(a, b found) int {
		if d := rank(a.id) - rank(b.id); d != 0 {
			return d
		}
		return strings.Compare(a.id.text, b.id.text)
	})
	return list
}

// candidates are the ids that content can have.
func candidates(items []endorsed.Item) []ID {
	var texts []string
	for _, i := range items {
		switch {
		case i.Document != nil:
			texts = append(texts, documentID(i))
		case i.CRL != nil:
			product := strings.TrimPrefix(i.About, "ARK-")
			texts = append(texts, KindCRL+"/"+product+"/"+KindVCEK, KindCRL+"/"+product+"/"+KindVLEK)
			for suffix, text := range map[string]string{" PCK Platform CA": KindPCKCRL + "/platform", " PCK Processor CA": KindPCKCRL + "/processor", " Root CA": KindRootCRL} {
				if strings.HasSuffix(i.About, suffix) {
					texts = append(texts, text)
				}
			}
		case i.Certificate != nil && i.Certificate.IsCA:
			if p, ok := strings.CutPrefix(i.About, "SEV-VLEK-"); ok {
				texts = append(texts, KindAuthorities+"/"+p+"/"+KindVLEK)
			} else if p, ok := strings.CutPrefix(i.About, "SEV-"); ok {
				texts = append(texts, KindAuthorities+"/"+p+"/"+KindVCEK)
			}
		case i.Certificate != nil:
			if id, err := leafID(i.Certificate); err == nil {
				texts = append(texts, id.text)
			}
		}
	}
	var out []ID
	for _, text := range texts {
		if id, err := ParseID(text); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// scan finds what is in the folder under the names that this package gives; other files are passed over.
func (f *folder) scan() ([]found, error) {
	if f == nil {
		return nil, nil
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, entry := range entries {
		if entry.IsDir() || strings.HasPrefix(entry.Name(), ".") || strings.HasSuffix(entry.Name(), ".issuers.pem") {
			continue
		}
		raw, err := f.file(entry.Name(), maxBody)
		if err != nil || raw == nil {
			continue // a stranger's file
		}
		var set endorsed.Set
		if set.Add(entry.Name(), raw) != nil {
			continue
		}
		for _, id := range candidates(set.Items()) {
			if id.file() != entry.Name() {
				continue
			}
			issuers, err := f.file(id.issuersFile(), maxBody)
			if err != nil {
				return nil, err
			}
			out = append(out, found{id, raw, issuers, entry.Name()})
		}
	}
	return inOrder(out), nil
}

// check makes entries of what was found: by each other first, then by what the cache has. at is judged by; the error of
// each is beside it.
func (c *Cache) check(ctx context.Context, list []found) ([]*entry, []error) {
	entries, errs := make([]*entry, len(list)), make([]error, len(list))
	by := map[ID]*entry{}
	own := c.checker(ctx)
	k := checker{roots: own.roots, at: own.at, authorities: func(of ID) (*entry, error) {
		if of.Kind() == KindRootCRL {
			for _, e := range by {
				if e.id.Kind() == KindPCKCRL || e.id.Kind() == KindTCB || e.id.Kind() == KindQE {
					return e, nil
				}
			}
			return own.authorities(of)
		}
		kind := KindVCEK
		if of.key() == sevsnp.SignedByVLEK {
			kind = KindVLEK
		}
		if e := by[ID{KindAuthorities + "/" + of.part(1) + "/" + kind}]; e != nil {
			return e, nil
		}
		return own.authorities(of)
	}}
	for n, f := range list {
		entries[n], errs[n] = k.make(f.id, f.raw, f.issuers)
		if errs[n] == nil {
			by[f.id] = entries[n]
		}
	}
	return entries, errs
}

func (f found) row(e *entry, err error, at time.Time) Row {
	r := Row{ID: f.id.String(), SHA256: digest(f.raw), File: f.file, State: StateGood}
	switch {
	case err != nil:
		r.State = err.Error()
		return r
	case at.Before(e.from):
		r.State = "early"
	case !at.Before(e.until):
		r.State = "expired"
	}
	r.From, r.Until, r.Evaluation = e.from.UTC(), e.until.UTC(), e.mark.Evaluation
	if e.mark.Number != nil {
		r.CRLNumber = e.mark.Number.String()
	}
	return r
}

// List tells what the folder has, and whether it holds now. It asks nobody.
func (c *Cache) List(ctx context.Context) ([]Row, error) {
	list, err := c.folder.scan()
	if err != nil {
		return nil, err
	}
	entries, errs := c.check(ctx, list)
	rows := make([]Row, 0, len(list))
	for n := range list {
		rows = append(rows, list[n].row(entries[n], errs[n], c.o.Now()))
	}
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.ID, b.ID) })
	return rows, nil
}

// Export writes everything in the folder that can be checked and holds now as one portable file, always the same for the
// same endorsements. The rows tell what is in it; the rest of the folder is left out.
func (c *Cache) Export(ctx context.Context) ([]byte, []Row, error) {
	list, err := c.folder.scan()
	if err != nil {
		return nil, nil, err
	}
	entries, errs := c.check(ctx, list)
	b, rows := bundle{Version: BundleVersion, Entries: []bundleEntry{}}, []Row{}
	for n, e := range entries {
		if errs[n] != nil || e.holds(c.o.Now()) != nil {
			continue
		}
		be := bundleEntry{ID: e.id.String(), From: e.from.UTC(), Until: e.until.UTC(), SHA256: digest(e.raw), Bytes: e.raw}
		if len(e.issuers) > 0 {
			be.Issuers256, be.IssuersBytes = digest(e.issuers), e.issuers
		}
		b.Entries = append(b.Entries, be)
		rows = append(rows, list[n].row(e, nil, c.o.Now()))
	}
	if len(rows) == 0 {
		return nil, nil, evidence.Refuse(evidence.CodeUnavailable, "folder", "nothing that holds now", "at least one endorsement")
	}
	slices.SortFunc(b.Entries, func(a, b bundleEntry) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.ID, b.ID) })
	raw, err := json.MarshalIndent(b, "", " ")
	return append(raw, '\n'), rows, err
}

// File is a file to import.
type File struct {
	Name string
	Raw  []byte
}

// Import takes bundles, and files of any form that package evidence/collateral knows, into the folder. Everything is
// checked up to a pinned root first; one thing that does not hold up, and nothing is taken. What is out of date, or of no
// use here, is left out: its row says so.
func (c *Cache) Import(ctx context.Context, files ...File) ([]Row, error) {
	var list []found
	var loose endorsed.Set
	for _, f := range files {
		fromBundle, is, err := readBundle(f)
		if err != nil {
			return nil, err
		}
		if is {
			list = append(list, fromBundle...)
		} else if err := loose.Add(f.Name, f.Raw); err != nil {
			return nil, err
		}
	}
	list = inOrder(append(list, sorted(&loose)...))
	if len(list) == 0 {
		return nil, evidence.Refuse(evidence.CodeParse, "import", "nothing that can be kept", "VCEKs with their ASK and ARK, revocation lists, or Intel's documents with their issuers")
	}
	entries, errs := c.check(ctx, list)
	if err := errors.Join(errs...); err != nil {
		for n := range list {
			if errs[n] != nil {
				return nil, fmt.Errorf("%s in %s: %w", list[n].id, list[n].file, errs[n])
			}
		}
	}
	var rows []Row
	var good []*entry
	for n, e := range entries {
		r := list[n].row(e, nil, c.o.Now())
		rows = append(rows, r)
		if r.State != StateGood {
			continue
		}
		c.mu.Lock()
		seen, there := c.seen[e.id]
		c.mu.Unlock()
		if there && e.id.changes() {
			if err := e.mark.follows(e.id, seen); err != nil {
				return nil, fmt.Errorf("%s: %w", list[n].file, err)
			}
		}
		good = append(good, e)
	}
	for _, e := range good {
		if err := c.keep(e, true); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func readBundle(f File) ([]found, bool, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(f.Raw), []byte("{")) || !bytes.Contains(f.Raw[:min(len(f.Raw), 512)], []byte(BundleVersion)) {
		return nil, false, nil
	}
	refuse := func(got, want string) ([]found, bool, error) {
		return nil, true, evidence.Refuse(evidence.CodeParse, f.Name, got, want)
	}
	if len(f.Raw) > MaxBundle {
		return refuse(fmt.Sprintf("%d bytes", len(f.Raw)), fmt.Sprintf("at most %d", MaxBundle))
	}
	var b bundle
	dec := json.NewDecoder(bytes.NewReader(f.Raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return refuse(err.Error(), "a bundle of version "+BundleVersion)
	}
	if b.Version != BundleVersion || len(b.Entries) > maxBundleEntries {
		return refuse(fmt.Sprintf("version %q with %d entries", b.Version, len(b.Entries)), fmt.Sprintf("version %s with at most %d", BundleVersion, maxBundleEntries))
	}
	var out []found
	last := ""
	for _, e := range b.Entries {
		id, err := ParseID(e.ID)
		if err != nil {
			return nil, true, err
		}
		if e.ID <= last {
			return refuse("entry "+e.ID+" after "+last, "each entry once, in order")
		}
		last = e.ID
		if digest(e.Bytes) != e.SHA256 || len(e.IssuersBytes) > 0 && digest(e.IssuersBytes) != e.Issuers256 {
			return refuse("entry "+e.ID+" with other bytes than its digest says", "the bytes that were exported")
		}
		out = append(out, found{id, e.Bytes, e.IssuersBytes, f.Name})
	}
	return out, true, nil
}

// sorted makes endorsements out of loose files. Of several versions the newest goes in.
func sorted(set *endorsed.Set) []found {
	newest := map[ID]endorsed.Item{}
	var out []found
	for _, i := range set.Items() {
		for _, id := range candidates([]endorsed.Item{i}) {
			if id.Kind() == KindCRL && !givenOutFor(i, id) {
				continue
			}
			old, there := newest[id]
			if there && !(i.Evaluation > old.Evaluation || i.Evaluation == old.Evaluation && i.From.After(old.From)) {
				continue
			}
			newest[id] = i
		}
	}
	for id, i := range newest {
		f := found{id: id, raw: i.Raw, file: i.File}
		switch id.Kind() {
		case KindAuthorities:
			for _, root := range set.Items() {
				if root.Certificate != nil && bytes.Equal(root.Certificate.RawSubject, i.Certificate.RawIssuer) && i.Certificate.CheckSignatureFrom(root.Certificate) == nil {
					f.raw = pemOf(i.Raw, root.Raw)
				}
			}
		case KindTCB, KindQE, KindPCKCRL:
			f.issuers = set.Issuers(i)
		}
		out = append(out, f)
	}
	return out
}

// givenOutFor tells whether AMD gives out a list for a kind of key. A list that does not say is one for both.
func givenOutFor(i endorsed.Item, id ID) bool {
	for _, e := range i.CRL.Extensions {
		if e.Id.String() == "2.5.29.28" {
			other := KindVLEK
			if id.part(2) == KindVLEK {
				other = KindVCEK
			}
			return !bytes.Contains(e.Value, []byte("/"+other+"/"))
		}
	}
	return true
}

func pemOf(ders ...[]byte) (out []byte) {
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// ReadFiles reads files, and the files directly in folders, to import. Files of folders that are of an unknown form are
// passed over, and told by name.
func ReadFiles(paths ...string) (files []File, passed []string, err error) {
	read := func(path string) ([]byte, error) {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Size() > MaxBundle {
			return nil, fmt.Errorf("%s: more than %d bytes", path, MaxBundle)
		}
		return os.ReadFile(path)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, nil, err
		}
		if !info.IsDir() {
			raw, err := read(path)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, File{path, raw})
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			name := filepath.Join(path, e.Name())
			if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			raw, err := read(name)
			if err != nil {
				return nil, nil, err
			}
			var set endorsed.Set
			f := File{name, raw}
			if _, is, _ := readBundle(f); !is && set.Add(name, raw) != nil {
				passed = append(passed, name)
				continue
			}
			files = append(files, f)
		}
	}
	return files, passed, nil
}
