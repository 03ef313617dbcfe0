package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/doctor"
	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/cmd/cloister/internal/narrate"
	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/image"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build, convert, check and list images", Example: "  cloister image build\n  cloister image list"}
	build := &cobra.Command{
		Use: "build", Short: "Build the default Debian confidential image", Args: cobra.NoArgs,
		Long: `Build the default confidential image: Debian 12, its own kernel in a signed kernel image, its root behind dm-verity.
Secure Boot keys are the installation's own. The same input gives the same digest.`,
		Example: "  cloister image build --out ./debian-12",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := cmd.Flags().GetString("out")
			if err != nil {
				return err
			}
			i, err := installation(cmd)
			if err != nil {
				return err
			}
			if out == "" {
				out = filepath.Join(i.Images(), image.Default)
			}
			m, err := buildImage(cmd.Context(), i, out, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", m.Name, m.Digest)
			return nil
		},
	}
	build.Flags().String("out", "", "folder of the image (default: the installation's)")
	list := &cobra.Command{
		Use: "list", Short: "List the installation's images", Args: cobra.NoArgs, Example: "  cloister image list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			images := []*image.Manifest{}
			i, err := existing(cmd)
			if err == nil {
				images, err = listImages(i.Images())
			}
			if err != nil && !errors.Is(err, platform.ErrNotUp) { // no installation has no images
				return err
			}
			if o == "json" {
				return printJSON(cmd.OutOrStdout(), images)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tDISTRIBUTION\tKERNEL\tSIZE\tDIGEST")
			for _, m := range images {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d MiB\t%s\n", m.Name, m.Distribution, m.Kernel, m.Disk.Size>>20, m.Digest)
			}
			return w.Flush()
		},
	}
	addOutput(list)
	cmd.AddCommand(build, list, newImageCheck(), newImageConvert())
	return cmd
}

func listImages(dir string) ([]*image.Manifest, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	images := []*image.Manifest{}
	for _, e := range entries {
		if !e.IsDir() || e.Name()[0] == '.' {
			continue
		}
		m, err := image.Load(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		images = append(images, m)
	}
	return images, nil
}

func buildImage(ctx context.Context, i *install.Installation, out string, to io.Writer) (*image.Manifest, error) {
	if err := doctor.Err(doctor.Look(doctor.ToBuildImages(i.Dir))); err != nil {
		return nil, err
	}
	begun := time.Now()
	next, finish := steps(to, time.Now)
	m, err := image.Build(ctx, image.BuildOptions{Out: out, GuestBinary: filepath.Join(i.Programs, "cloister-guest"), SecureBootKeys: i.SecureBootKeys(), Progress: next})
	if err != nil {
		return nil, err
	}
	finish()
	fmt.Fprintf(to, "image %s built in %.1f s (%s)\n", m.Name, time.Since(begun).Seconds(), narrate.Details(map[string]string{"digest": m.Digest}))
	return m, nil
}

func details(d map[string]string) string { return narrate.Details(d) }
