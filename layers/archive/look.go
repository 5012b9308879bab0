package archive

import (
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Found is what lies at a name.
type Found struct {
	Size     int64
	Mode     os.FileMode
	Modified time.Time
	Leads    string // of a symlink: the name below root that it leads to in the end, from "/"; it need not exist
}

// Look tells what lies at name below the folder root. A symlink is not
// followed at the end of the name, and on the way leads within root. Errors
// are the kernel's.
func Look(root *os.File, name string) (Found, error) {
	clean := path.Clean("/" + name)
	if strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.") {
		clean += "/." // a link is followed, and has to lead to a folder
	}
	fd, err := openIn(int(root.Fd()), clean, unix.O_PATH|unix.O_NOFOLLOW, inRoot)
	if err != nil {
		return Found{}, err
	}
	f := os.NewFile(uintptr(fd), clean)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Found{}, err
	}
	found := Found{Size: st.Size(), Mode: st.Mode(), Modified: st.ModTime()}
	if st.Mode()&os.ModeSymlink != 0 {
		found.Leads, err = leads(root, fd, clean, st.Size())
	}
	return found, err
}

// leads follows a symlink to its end. The kernel knows where that is; if
// nothing is there, the link's own text has to do.
func leads(root *os.File, link int, name string, size int64) (string, error) {
	if end, err := openIn(int(root.Fd()), name, unix.O_PATH, inRoot); err == nil {
		defer unix.Close(end)
		top, err1 := os.Readlink(fdPath(int(root.Fd())))
		full, err2 := os.Readlink(fdPath(end))
		if rest, ok := strings.CutPrefix(full, strings.TrimSuffix(top, "/")); ok && err1 == nil && err2 == nil {
			return path.Clean("/" + rest), nil
		}
	}
	text, err := readlink(link, size)
	if err != nil {
		return "", err
	}
	if !path.IsAbs(text) {
		text = path.Join(path.Dir(name), text)
	}
	return path.Clean("/" + text), nil
}
