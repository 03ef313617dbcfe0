// Package imagesvc shows the platform's images as managed images of a read-only group, in every subscription.
//
// What an image is, its folder's manifest says; compute only passes the digest on, and the host agent checks the
// files against it.
package imagesvc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cloister.dev/cloister/compute/arm"
)

// Type is the resource type; Group is the group that the images appear in.
const (
	Type  = "Microsoft.Compute/images"
	Group = "cloister-images"
)

// Image is what compute knows of an image.
type Image struct {
	Name         string
	Version      string
	Digest       string
	Distribution string
	Guests       []string // what it can run under: "software", "sevsnp", "tdx"; empty: not said
	MinDiskGiB   int
}

// TEEs says on which TEEs the image runs, given the launchers of the hosts: under the software launcher a VM of any
// TEE is an ordinary guest. Empty means any.
func (i Image) TEEs(launchers []string) []string {
	if len(i.Guests) == 0 {
		return nil
	}
	var out []string
	for _, g := range i.Guests {
		switch {
		case g == "software" && slices.Contains(launchers, "software"):
			return nil
		case g == "sevsnp":
			out = append(out, "snp")
		case g == "tdx":
			out = append(out, "tdx")
		}
	}
	if out == nil {
		return []string{"hosts with the software launcher only"}
	}
	return out
}

// Service reads the image folder at each call: images come and go while compute runs.
type Service struct {
	Dir        string
	Location   string
	MinDiskGiB int // smallest OS disk for an image that doesn't say
}

// manifest is the part of an image's manifest.json that is needed here.
type manifest struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Digest       string `json:"digest"`
	Distribution string `json:"distribution"`
	Guests       []struct {
		TEE       string `json:"tee"`
		Supported bool   `json:"supported"`
	} `json:"guests"`
	Disk struct {
		Size int64 `json:"size"` // bytes
	} `json:"disk"`
}

// Get reads one image; false means there is none.
func (s *Service) Get(name string) (Image, bool, error) {
	if err := arm.CheckName(name); err != nil {
		return Image{}, false, err
	}
	raw, err := os.ReadFile(filepath.Join(s.Dir, name, "manifest.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, false, nil
	} else if err != nil {
		return Image{}, false, fmt.Errorf("reading image %s: %w", name, err)
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Image{}, false, fmt.Errorf("reading the manifest of image %s: %w", name, err)
	}
	if m.Digest == "" {
		return Image{}, false, fmt.Errorf("image %s: its manifest has no digest", name)
	}
	img := Image{Name: name, Version: m.Version, Digest: m.Digest, Distribution: m.Distribution, MinDiskGiB: s.MinDiskGiB}
	for _, g := range m.Guests {
		if g.Supported {
			img.Guests = append(img.Guests, g.TEE)
		}
	}
	if n := int((m.Disk.Size + 1<<30 - 1) >> 30); n > img.MinDiskGiB {
		img.MinDiskGiB = n
	}
	return img, true, nil
}

// List reads all images. One that can't be read is left out; whoever names it hears why.
func (s *Service) List() ([]Image, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var out []Image
	for _, e := range entries {
		if arm.CheckName(e.Name()) != nil {
			continue
		}
		if img, ok, err := s.Get(e.Name()); err == nil && ok {
			out = append(out, img)
		}
	}
	return out, nil
}

// ID is the id of an image in a subscription.
func ID(sub, name string) arm.ID {
	return arm.ID{Subscription: sub, Group: Group, Type: Type, Name: name}
}

// Resolve finds the image that an id in a request names.
func (s *Service) Resolve(sub, id string) (Image, bool, error) {
	parsed, err := arm.ParseID(id, Type)
	if err != nil {
		return Image{}, false, err
	}
	if !strings.EqualFold(parsed.Group, Group) || !strings.EqualFold(parsed.Subscription, sub) {
		return Image{}, false, nil
	}
	return s.Get(parsed.Name)
}

// Routes are reads only: images are made with the installation's own tools.
func (s *Service) Routes() []arm.Route {
	const group = "/subscriptions/{sub}/resourceGroups/{group}/providers/" + Type
	return []arm.Route{
		{Method: http.MethodGet, Pattern: group + "/{name}", Action: Type + "/read", Handle: s.get},
		{Method: http.MethodGet, Pattern: group, Action: Type + "/read", Handle: s.list},
		{Method: http.MethodGet, Pattern: "/subscriptions/{sub}/providers/" + Type, Action: Type + "/read", Handle: s.list},
	}
}

func (s *Service) wire(sub string, img Image) any {
	return map[string]any{
		"id": ID(sub, img.Name).String(), "name": img.Name, "type": Type, "location": s.Location,
		"tags": map[string]string{"cloister.digest": img.Digest, "cloister.version": img.Version, "cloister.distribution": img.Distribution, "cloister.guests": strings.Join(img.Guests, ",")},
		"properties": map[string]any{"provisioningState": "Succeeded", "hyperVGeneration": "V2",
			"storageProfile": map[string]any{"zoneResilient": false, "dataDisks": []any{}, "osDisk": map[string]any{
				"osType": "Linux", "osState": "Generalized", "caching": "ReadWrite", "storageAccountType": "Premium_LRS", "diskSizeGB": img.MinDiskGiB}}}}
}

func (s *Service) get(_ context.Context, r *arm.Request) (*arm.Response, error) {
	if !strings.EqualFold(r.Var("group"), Group) {
		return nil, arm.NotFound(r.ID())
	}
	img, ok, err := s.Get(r.Var("name"))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, arm.NotFound(r.ID())
	}
	return arm.OK(s.wire(r.Var("sub"), img)), nil
}

func (s *Service) list(_ context.Context, r *arm.Request) (*arm.Response, error) {
	out := []any{}
	if g := r.Var("group"); g == "" || strings.EqualFold(g, Group) {
		images, err := s.List()
		if err != nil {
			return nil, err
		}
		for _, img := range images {
			out = append(out, s.wire(r.Var("sub"), img))
		}
	}
	return arm.OK(arm.Page(out)), nil
}
