package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/layers/driver/packed"
	"github.com/coble-os/coble/layers/layout"
)

// Pack is `coble pack`: an image becomes a layout that the engine uses in place. It needs no engine.
func Pack(ctx context.Context, w io.Writer, args []string) error {
	f := pflag.NewFlagSet("pack", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	format := f.String("format", string(packed.Squashfs), "squashfs or erofs")
	compression := f.String("compression", "", "as mksquashfs -comp or mkfs.erofs -z has it, such as zstd or lz4hc,12; the kernel must know it")
	err := f.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(w, "Usage: coble pack [flags] SOURCE FOLDER\n\nPack the layers of the images in SOURCE (docker-archive or OCI layout) as compressed file systems in the new FOLDER,\nfor an appliance that runs them from there: name it as the source of an image in the TOML file. Needs root, and\nmksquashfs or mkfs.erofs.\n\n%s", f.FlagUsages())
		return nil
	}
	if err != nil {
		return err
	}
	o := layout.Options{Format: packed.Format(*format), Compression: *compression}
	if o.Format != packed.Squashfs && o.Format != packed.Erofs {
		return fmt.Errorf("pack images: no format %q: there is squashfs and erofs", *format)
	}
	if f.NArg() != 2 {
		return errors.New("pack images: want a source and a new folder: coble pack SOURCE FOLDER")
	}
	if os.Geteuid() != 0 {
		return errors.New("pack images: it needs root, for the owners and devices of files")
	}
	names, err := layout.Pack(ctx, f.Arg(0), f.Arg(1), o)
	if err != nil {
		return fmt.Errorf("pack images: %w", err)
	}
	for _, n := range names {
		fmt.Fprintln(w, "Packed image:", n)
	}
	return nil
}
