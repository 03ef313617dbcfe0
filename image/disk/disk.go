package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Names of the partitions, in order.
const (
	NameESP    = "cloister-esp"
	NameImage  = "cloister-image"
	NameVerity = "cloister-verity"
	NameRoot   = "cloister-root"
)

// BootPath is where firmware looks on a disk that no boot entry names.
const BootPath = "::/EFI/BOOT/BOOTX64.EFI"

const (
	mib        = 1 << 20
	espMiB     = 64
	luksHeader = 16 * mib
	// rootSpareMiB is what the VM's volume has beyond the image and the LUKS2 header.
	rootSpareMiB = 256
	volumeID     = "C1015E12"
)

var (
	diskGUID = parseGUID("c1015e12-0000-4000-8000-000000000000")
	partGUID = [4]GUID{
		parseGUID("c1015e12-0000-4000-8000-000000000001"), parseGUID("c1015e12-0000-4000-8000-000000000002"),
		parseGUID("c1015e12-0000-4000-8000-000000000003"), parseGUID("c1015e12-0000-4000-8000-000000000004"),
	}
)

// Layout computes the four partitions for a root and a hash tree of so many bytes, and the disk's size in bytes.
func Layout(imageBytes, verityBytes int64) ([]Partition, int64) {
	sizes := []int64{espMiB * mib, imageBytes, verityBytes, imageBytes + 2*luksHeader + rootSpareMiB*mib}
	kinds := []GUID{typeESP, typeLinux, typeLinux, typeLinux}
	var parts []Partition
	at := uint64(partitionAlign)
	for i, name := range []string{NameESP, NameImage, NameVerity, NameRoot} {
		n := uint64(sizes[i]+SectorSize-1) / SectorSize
		parts = append(parts, Partition{Name: name, Type: kinds[i], Unique: partGUID[i], First: at, Last: at + n - 1})
		at = (at + n + partitionAlign - 1) / partitionAlign * partitionAlign
	}
	return parts, int64(at+partitionAlign) * SectorSize
}

// Write makes a sparse disk at path from three files. The same files give the same bytes.
func Write(ctx context.Context, path, uki, image, hashes string, at time.Time) error {
	size := func(p string) (int64, error) {
		i, err := os.Stat(p)
		if err != nil {
			return 0, fmt.Errorf("laying out the disk: %w", err)
		}
		return i.Size(), nil
	}
	ukiSize, err := size(uki)
	if err != nil {
		return err
	}
	if ukiSize > (espMiB-2)*mib {
		return fmt.Errorf("the kernel image has %d bytes: more than the system partition holds", ukiSize)
	}
	imageSize, err := size(image)
	if err != nil {
		return err
	}
	hashSize, err := size(hashes)
	if err != nil {
		return err
	}
	parts, total := Layout(imageSize, hashSize)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(total); err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	if err := writeTable(f, uint64(total)/SectorSize, diskGUID, parts); err != nil {
		return err
	}
	if err := copySparse(ctx, f, image, int64(parts[1].First)*SectorSize); err != nil {
		return err
	}
	if err := copySparse(ctx, f, hashes, int64(parts[2].First)*SectorSize); err != nil {
		return err
	}
	if err := writeESP(ctx, path, parts[0], uki, at); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing the disk: %w", err)
	}
	return f.Close()
}

// writeESP makes the FAT32 file system with mtools, with a fixed serial number and fixed times.
func writeESP(ctx context.Context, disk string, p Partition, uki string, at time.Time) error {
	target := fmt.Sprintf("%s@@%d", disk, p.First*SectorSize)
	sectors := p.Last - p.First + 1
	for _, args := range [][]string{
		{"mformat", "-i", target, "-F", "-T", fmt.Sprint(sectors), "-h", "64", "-s", "32", "-c", "1", "-H", fmt.Sprint(p.First), "-N", volumeID, "::"},
		{"mmd", "-i", target, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", target, uki, BootPath},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", at.Unix()), "TZ=UTC", "LC_ALL=C", "MTOOLSRC=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s (package mtools): %w: %s", args[0], err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// copySparse writes a file's content at an offset and leaves out what is zero; the target must be fresh.
func copySparse(ctx context.Context, to io.WriterAt, from string, at int64) error {
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("filling the disk: %w", err)
	}
	defer f.Close()
	const chunk = 64 << 10
	buf, zero := make([]byte, chunk), make([]byte, chunk)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(f, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := to.WriteAt(buf[:n], at); err != nil {
				return fmt.Errorf("filling the disk: %w", err)
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", from, err)
		}
	}
}
