package health

import (
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
)

// remedies says what would mend the checks that failed, each once.
func remedies(checks []evidence.Check, r *sevsnp.Report, floor sevsnp.TCB) []Remedy {
	var out []Remedy
	for _, c := range checks {
		if c.Result == evidence.Met || c.Result == evidence.NotAsked {
			continue
		}
		out = append(out, Remedy{Claim: c.Claim, Do: remedy(c, r, floor)})
	}
	return out
}

func remedy(c evidence.Check, r *sevsnp.Report, floor sevsnp.TCB) string {
	switch c.Claim {
	case "current TCB":
		return "update the host: " + lacking(r.CurrentTCB, floor)
	case "committed TCB":
		if r.CurrentTCB.Meets(floor) {
			return "commit the firmware that runs (SNP_COMMIT)"
		}
		return "update the host, then commit its firmware: " + lacking(r.CommittedTCB, floor)
	case "reported TCB":
		if r.CommittedTCB.Meets(floor) {
			return "report the committed TCB (SNP_CONFIG), and fetch certificates for it"
		}
		return "update the host, then report the committed TCB: " + lacking(r.ReportedTCB, floor)
	case "provisional firmware":
		return "commit the firmware that runs (SNP_COMMIT), or go back to the committed one"
	case "platform alias check":
		return "update the BIOS to one that checks memory for aliases, and start the host again"
	case "platform SMT":
		return "change simultaneous multithreading in the BIOS, and start the host again"
	case "platform ciphertext hiding":
		return "switch ciphertext hiding on in the BIOS and the hypervisor"
	case "platform RAPL disabled":
		return "have the host disable RAPL (SNP_CONFIG or BIOS)"
	case "report data":
		return "run the probe anew: its report is not about this challenge"
	case "VMPL", "policy debug", "policy migration agent":
		return "run the probe as the agent makes it: this one was not"
	case "product":
		return "name a TCB floor for this product"
	}
	return "see what was wanted"
}

// lacking names the components below the floor.
func lacking(got, floor sevsnp.TCB) string {
	text := ""
	for _, c := range []struct {
		name      string
		got, want uint8
		where     string
	}{
		{"FMC", got.FMC, floor.FMC, "BIOS"}, {"boot loader", got.BootLoader, floor.BootLoader, "BIOS"}, {"TEE", got.TEE, floor.TEE, "BIOS"},
		{"SNP firmware", got.SNP, floor.SNP, "BIOS or firmware file"}, {"microcode", got.Microcode, floor.Microcode, "BIOS or microcode package"},
	} {
		if c.got < c.want {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%s %d to at least %d (%s)", c.name, c.got, c.want, c.where)
		}
	}
	return text
}
