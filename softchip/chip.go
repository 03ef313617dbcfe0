package softchip

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/internal/pemkey"
)

var afterLaunchRecord = failpoint.New("softchip/launch-record")

// maxFirmware bounds firmware, in bytes.
const maxFirmware = 64 << 20

// seals are what a firmware descriptor must have: nobody can change what was measured any more.
const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// Measure computes a launch digest.
type Measure func(firmware []byte, vcpus int, cpuModel string) ([48]byte, error)

// MeasureSoftware is the software launcher's measure: firmware pages and VMSAs. SEV metadata in firmware isn't read.
func MeasureSoftware(firmware []byte, vcpus int, cpuModel string) ([48]byte, error) {
	return launch.SNPDigest(launch.SNPInput{Firmware: firmware, VCPUs: vcpus, CPUModel: cpuModel, Metadata: launch.MetadataNone})
}

// Chip signs reports about what was launched.
type Chip struct {
	dir     string
	chain   sevsnp.Chain
	key     *ecdsa.PrivateKey
	measure Measure
	random  io.Reader

	mu sync.Mutex // guards the launch records on disk
}

// record is what a launch fixes. Files are named by the SHA-256 of the handle, so that the directory
// gives no handles away.
type record struct {
	Measurement string `json:"measurement"` // 96 hexadecimal digits
	HostData    string `json:"hostData"`    // 64
	Policy      uint64 `json:"policy"`
	ReportID    string `json:"reportId"` // 64
}

// Open loads a chip that Init made.
func Open(dir string, measure Measure, random io.Reader) (*Chip, error) {
	text, err := os.ReadFile(filepath.Join(dir, fileChain))
	if err != nil {
		return nil, fmt.Errorf("reading the chip's chain: %w", err)
	}
	chain, err := sevsnp.ParseChain(text)
	if err != nil {
		return nil, fmt.Errorf("reading the chip's chain: %w", err)
	}
	text, err = os.ReadFile(filepath.Join(dir, fileKey))
	if err != nil {
		return nil, fmt.Errorf("reading the chip's key: %w", err)
	}
	key, err := pemkey.Parse[*ecdsa.PrivateKey](text)
	if err != nil {
		return nil, fmt.Errorf("reading the chip's key: %w", err)
	}
	if key.Curve != elliptic.P384() || !key.PublicKey.Equal(chain.Leaf.PublicKey) {
		return nil, errors.New("the chip's key is not that of its certificate")
	}
	c := &Chip{dir: filepath.Join(dir, "launches"), chain: chain, key: key, measure: measure, random: random}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the launch records' directory: %w", err)
	}
	return c, nil
}

// Launch measures sealed firmware and gives the handle, 64 hexadecimal digits: who has it may ask for reports
// about this launch. The record is on disk before the handle is given.
func (c *Chip) Launch(firmware *os.File, vcpus int, cpuModel string, policy uint64, hostData [32]byte) (string, error) {
	if p := sevsnp.Policy(policy); p&sevsnp.PolicyReserved == 0 || policy>>26 != 0 {
		return "", evidence.Refuse(evidence.CodeConfig, "policy", p.String(), "bit 17 set, bits 26 to 63 clear")
	}
	image, err := readSealed(firmware)
	if err != nil {
		return "", err
	}
	measurement, err := c.measure(image, vcpus, cpuModel)
	if err != nil {
		return "", fmt.Errorf("measuring the launch: %w", err)
	}
	var handle, id [32]byte
	if _, err := io.ReadFull(c.random, handle[:]); err != nil {
		return "", fmt.Errorf("choosing a handle: %w", err)
	}
	if _, err := io.ReadFull(c.random, id[:]); err != nil {
		return "", fmt.Errorf("choosing a report id: %w", err)
	}
	data, err := json.Marshal(record{hex.EncodeToString(measurement[:]), hex.EncodeToString(hostData[:]), policy, hex.EncodeToString(id[:])})
	if err != nil {
		return "", fmt.Errorf("writing the launch record: %w", err)
	}
	name := hex.EncodeToString(handle[:])
	path, err := c.path(name)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := writeFile(path, data, 0o600); err != nil {
		return "", fmt.Errorf("writing the launch record: %w", err)
	}
	afterLaunchRecord.Hit()
	return name, nil
}

// readSealed reads firmware from a descriptor whose content can't change.
func readSealed(f *os.File) ([]byte, error) {
	const want = "a memfd sealed against writing, shrinking, growing and further seals"
	if f == nil {
		return nil, evidence.Refuse(evidence.CodeConfig, "firmware", "no descriptor", want)
	}
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeConfig, "firmware", "a descriptor without seals: "+err.Error(), want)
	}
	if got&seals != seals {
		return nil, evidence.Refuse(evidence.CodeConfig, "firmware", fmt.Sprintf("seals 0x%x", got), want)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the firmware: %w", err)
	}
	if info.Size() == 0 || info.Size() > maxFirmware {
		return nil, evidence.Refuse(evidence.CodeConfig, "firmware size", fmt.Sprint(info.Size()), fmt.Sprintf("1 to %d", maxFirmware))
	}
	image := make([]byte, info.Size())
	if _, err := f.ReadAt(image, 0); err != nil {
		return nil, fmt.Errorf("reading the firmware: %w", err)
	}
	return image, nil
}

// Report signs a report about a launch: version 3, VMPL 0.
func (c *Chip) Report(handle string, reportData [64]byte) ([]byte, error) {
	path, err := c.path(handle)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, unknownHandle()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the launch record: %w", err)
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("reading the launch record: %w", err)
	}
	r := &sevsnp.Report{Version: 3, Policy: sevsnp.Policy(rec.Policy), SignatureAlgo: sevsnp.AlgoECDSAP384SHA384, ReportData: reportData,
		CurrentTCB: levels, ReportedTCB: levels, CommittedTCB: levels, LaunchTCB: levels, CPUID: sevsnp.CPUID{Family: 0x19, Model: 1, Stepping: 1}}
	for _, f := range []struct {
		to   []byte
		text string
	}{{r.Measurement[:], rec.Measurement}, {r.HostData[:], rec.HostData}, {r.ReportID[:], rec.ReportID}} {
		if n, err := hex.Decode(f.to, []byte(f.text)); err != nil || n != len(f.to) {
			return nil, errors.New("reading the launch record: a value of the wrong size")
		}
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff // no migration agent
	}
	for _, e := range c.chain.Leaf.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.3704.1.4" {
			copy(r.ChipID[:], e.Value)
		}
	}
	sum := sha512.Sum384(r.SignedBytes())
	rr, s, err := ecdsa.Sign(rand.Reader, c.key, sum[:])
	if err != nil {
		return nil, fmt.Errorf("signing the report: %w", err)
	}
	r.Signature = sevsnp.EncodeSignature(rr, s)
	return r.Marshal(), nil
}

// Destroy forgets a launch; its handle gives no reports any more. Forgetting twice is no mistake.
func (c *Chip) Destroy(handle string) error {
	path, err := c.path(handle)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the launch record: %w", err)
	}
	return syncDir(c.dir)
}

// ChainPEM is the chip's chain: VCEK, ASK, ARK.
func (c *Chip) ChainPEM() []byte { return c.chain.PEM() }

func (c *Chip) path(handle string) (string, error) {
	raw, err := hex.DecodeString(handle)
	if err != nil || len(raw) != 32 || hex.EncodeToString(raw) != handle {
		return "", unknownHandle()
	}
	sum := sha256.Sum256(raw)
	return filepath.Join(c.dir, hex.EncodeToString(sum[:])+".json"), nil
}

// unknownHandle doesn't repeat the handle: a handle is a capability.
func unknownHandle() error {
	return evidence.Refuse(evidence.CodeBinding, "handle", "no launch of that handle", "the handle of a running launch")
}
