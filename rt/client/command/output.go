package command

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/term"
)

// Output writes a stream to a file, or to standard output if that is no terminal. A file gets its name only once it is
// whole, so that an old one is not lost to a stream that breaks off.
func (a *App) Output(file string, from io.Reader) error {
	if file == "" {
		if f, ok := a.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return errors.New("refusing to write an archive to a terminal: give a file with -o, or redirect")
		}
		_, err := io.Copy(a.Out, from)
		return err
	}
	if st, err := os.Stat(file); err == nil && !st.Mode().IsRegular() {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, from)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err = errors.Join(err, f.Chmod(0o600), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
