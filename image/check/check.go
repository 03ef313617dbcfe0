// Package check says whether a disk image can become the image of a confidential VM, requirement by requirement, each with
// a reason and a remedy. It reads the image's own files, without root and without mounting, and believes no name.
//
// A requirement fails where converting the image would keep what is wrong. It warns where converting mends it, or where the
// owner should know. It is unknown where the image does not tell.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cloister.dev/cloister/evidence"
)

// ReportFormat names the report's JSON.
const ReportFormat = "cloister.image-check/1"

// TEE is a kind of hardware protection, by the names that manifests of images have.
type TEE string

// The TEEs, software mode among them.
const (
	Software TEE = "software"
	SEVSNP   TEE = "sevsnp"
	TDX      TEE = "tdx"
)

// TEEs that reports tell of, in order.
var TEEs = []TEE{Software, SEVSNP, TDX}

// Verdict on one requirement.
type Verdict string

// The verdicts. The zero value is none of them.
const (
	Pass    Verdict = "pass"
	Warn    Verdict = "warn"
	Unknown Verdict = "unknown"
	Fail    Verdict = "fail"
)

// Finding is one requirement with its verdict.
type Finding struct {
	ID          string  `json:"id"`
	Requirement string  `json:"requirement"`
	TEEs        []TEE   `json:"tees"` // that it counts for
	Verdict     Verdict `json:"verdict"`
	Reason      string  `json:"reason"`
	Remedy      string  `json:"remedy,omitempty"`
}

// Fit says for one TEE whether the image fits: pass, fail or unknown, and the requirements that decided.
type Fit struct {
	TEE     TEE      `json:"tee"`
	Verdict Verdict  `json:"verdict"`
	Because []string `json:"because"`
}

// Report is all that was found.
type Report struct {
	Format       string    `json:"format"`
	Container    string    `json:"container"`
	Size         int64     `json:"size"` // of the disk, in bytes
	Distribution string    `json:"distribution,omitempty"`
	Kernel       string    `json:"kernel,omitempty"` // as uname -r prints it
	Findings     []Finding `json:"findings"`
	Fits         []Fit     `json:"fits"`
}

// Fit gives the verdict for a TEE; Unknown for one that the report does not tell of.
func (r *Report) Fit(tee TEE) Verdict {
	for _, f := range r.Fits {
		if f.TEE == tee {
			return f.Verdict
		}
	}
	return Unknown
}

// Err is nil where the image fits the named TEEs, all of them, or where none is named at least one. It refuses otherwise: by
// CodeConfig for an image that does not fit, by CodeUnavailable where the image does not tell.
func (r *Report) Err(tees ...TEE) error {
	var worst Verdict
	if len(tees) > 0 {
		worst = Pass
		for _, t := range tees {
			if v := r.Fit(t); v == Fail || v == Unknown && worst == Pass {
				worst = v
			}
		}
	} else {
		worst, tees = Fail, TEEs
		for _, f := range r.Fits {
			if f.Verdict == Pass || f.Verdict == Unknown && worst == Fail {
				worst = f.Verdict
			}
		}
	}
	code := evidence.CodeConfig
	switch worst {
	case Pass:
		return nil
	case Unknown:
		code = evidence.CodeUnavailable
	}
	seen := map[string]bool{}
	var ids string
	for _, t := range tees {
		for _, f := range r.Fits {
			if f.TEE != t {
				continue
			}
			for _, id := range f.Because {
				if !seen[id] {
					seen[id] = true
					ids += " " + id
				}
			}
		}
	}
	return evidence.Refuse(code, "image", "not fit for "+names(tees), "an image that fits").By("image check:" + ids)
}

func names(tees []TEE) string {
	out := ""
	for i, t := range tees {
		if i > 0 {
			out += ", "
		}
		out += string(t)
	}
	return out
}

// Run checks the disk image in f, a file of size bytes. An error means that the image could not be read: it is damaged, or
// f is. What is well-formed but not fit is in the report. progress hears what is being looked at.
func Run(ctx context.Context, f io.ReaderAt, size int64, progress func(string)) (*Report, error) {
	i, err := Open(f, size)
	if err != nil {
		return nil, err
	}
	return i.Report(ctx, progress)
}

// judgement is what a rule says.
type judgement struct {
	verdict        Verdict
	reason, remedy string
}

func pass(format string, args ...any) judgement {
	return judgement{verdict: Pass, reason: fmt.Sprintf(format, args...)}
}

func warn(remedy, format string, args ...any) judgement {
	return judgement{Warn, fmt.Sprintf(format, args...), remedy}
}

func fail(remedy, format string, args ...any) judgement {
	return judgement{Fail, fmt.Sprintf(format, args...), remedy}
}

func unknown(remedy, format string, args ...any) judgement {
	return judgement{Unknown, fmt.Sprintf(format, args...), remedy}
}

// NoRoot is the reason of requirements that could not be looked at.
const NoRoot = "the image has no root that can be read"

// rule is one requirement. Those that need a root say nothing where there is none.
type rule struct {
	id, requirement string
	tees            []TEE // nil: all
	needsRoot       bool
	judge           func(ctx context.Context, i *Image) (judgement, error)
}

// Report judges the image by all rules.
func (i *Image) Report(ctx context.Context, progress func(string)) (*Report, error) {
	r := &Report{Format: ReportFormat, Container: string(i.disk.Format), Size: i.disk.Size(), Distribution: i.distribution()}
	if i.disk.Variant != "" {
		r.Container += " (" + i.disk.Variant + ")"
	}
	if i.Kernel != nil {
		r.Kernel = i.Kernel.Version
	}
	for _, rule := range rules {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		progress(rule.requirement)
		j, err := i.apply(ctx, rule)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rule.id, err)
		}
		tees := rule.tees
		if tees == nil {
			tees = TEEs
		}
		r.Findings = append(r.Findings, Finding{rule.id, rule.requirement, tees, j.verdict, Clean(j.reason), Clean(j.remedy)})
	}
	for _, t := range TEEs {
		r.Fits = append(r.Fits, fit(t, r.Findings))
	}
	return r, nil
}

func (i *Image) apply(ctx context.Context, rule rule) (judgement, error) {
	if rule.needsRoot && i.Root == nil {
		return unknown("", NoRoot), nil
	}
	j, err := rule.judge(ctx, i)
	var r *evidence.Refusal
	if errors.As(err, &r) && r.Code == evidence.CodeUnsupported {
		return unknown(r.Want, "%s: %s", r.Field, r.Got), nil
	}
	if err == nil && j.verdict == "" {
		err = errors.New("the rule gave no verdict")
	}
	return j, err
}

// fit is pass only where nothing failed and nothing is unknown.
func fit(t TEE, findings []Finding) Fit {
	out := Fit{TEE: t, Verdict: Pass, Because: []string{}}
	for _, want := range []Verdict{Fail, Unknown} {
		for _, f := range findings {
			for _, of := range f.TEEs {
				if of == t && f.Verdict == want {
					out.Verdict = want
					out.Because = append(out.Because, f.ID)
				}
			}
		}
		if len(out.Because) > 0 {
			break
		}
	}
	return out
}
