package source

import (
	"bufio"
	"context"
	"io"
	"os"

	"github.com/coble-os/coble/layers/blob"
)

// At opens a source where it lies, or a file that can't be read in any
// order: one that is packed, or no regular file.
func At(ctx context.Context, path string) (Source, *os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if st.IsDir() {
		root, err := os.OpenRoot(path)
		return Folder{root}, nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, f, nil
	}
	head, err := bufio.NewReader(io.NewSectionReader(f, 0, 6)).Peek(6)
	if err != nil && err != io.EOF {
		f.Close()
		return nil, nil, err
	}
	if blob.Detect(head) != blob.Plain {
		return nil, f, nil
	}
	s, err := Index(ctx, f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return s, nil, nil
}

// Open opens a source to be read in any order; what can't be where it
// lies is spooled in temp.
func Open(ctx context.Context, path, temp string, full func() bool) (Source, error) {
	s, f, err := At(ctx, path)
	if f == nil {
		return s, err
	}
	defer f.Close()
	plain, _, err := blob.Decompress(blob.WithContext(ctx, f))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	spool, err := blob.Spool(temp)
	if err != nil {
		return nil, err
	}
	n, err := blob.Fill(spool, plain, full)
	blob.Wrote(ctx, n)
	if err == nil {
		var t *Tar
		if t, err = Index(ctx, spool); err == nil {
			return t, nil
		}
	}
	spool.Close()
	return nil, err
}
