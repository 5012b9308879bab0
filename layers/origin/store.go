package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/unpacked"
)

// storeFile is what the engine calls the database in the folder of a store.
const storeFile = "coble.db"

// storeOrigin is another store as an Origin. It may lie on a read-only file
// system: nothing in it is written, made or locked for writing. It is not
// trusted either: layers are checked as they are read.
type storeOrigin struct {
	path, temp string
	layers     map[digest.Digest]catalog.Layer // by diff id
}

// openStore makes an origin of a store's folder, with spools in temp. The
// database is closed again on return.
func openStore(path, temp string) (_ Origin, err error) {
	// Pages of a damaged database: bbolt panics at some, and a file that ends
	// too early faults (SIGBUS).
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if bad := recover(); bad != nil {
			err = fmt.Errorf("its %s is damaged: %v", storeFile, bad)
		}
	}()
	db, err := bbolt.Open(filepath.Join(path, storeFile), 0, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, errors.New("an engine has it open: stop that one first, or repair from it as registry://HOST:PORT")
	}
	if err != nil {
		return nil, err
	}
	defer db.Close()
	o := &storeOrigin{path, temp, map[digest.Digest]catalog.Layer{}}
	return o, db.View(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		for _, n := range g.Names(catalog.LayerPrefix) {
			var l catalog.Layer
			if err := catalog.Load(g, n, &l); err != nil {
				return err
			}
			if _, known := o.layers[l.DiffID]; !known && l.Place == "" {
				o.layers[l.DiffID] = l
			}
		}
		return nil
	})
}

// tree is where a layer's files lie.
func (o *storeOrigin) tree(l catalog.Layer) (string, error) {
	if err := driver.CheckID(l.Folder); err != nil {
		return "", err
	}
	in := map[string]string{"overlay": "", "vfs": "r", "btrfs": "v/r"}
	sub, ok := in[l.Driver]
	if !ok {
		return "", fmt.Errorf("its layers are of driver %s, and only those of overlay, vfs and btrfs can be read without an engine", l.Driver)
	}
	return filepath.Join(o.path, l.Driver, "d", l.Folder, sub), nil
}

// Layer implements Origin.
func (o *storeOrigin) Layer(_ context.Context, diffID digest.Digest, _ []string) (_ io.ReadCloser, err error) {
	l, ok := o.layers[diffID]
	if !ok {
		return nil, fmt.Errorf("%w: the store %s has no layer %.19s", image.ErrNotFound, o.path, diffID)
	}
	name := fmt.Sprintf("layer %.19s of the store %s", diffID, o.path)
	defer func() {
		if err != nil {
			err = unpacked.Explain(name, err)
		}
	}()
	tree, err := o.tree(l)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenFile(tree, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(unpacked.MetaDir(o.path), l.Folder))
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return unpacked.FromRecord(root, f, diffID, name, o.temp, func() error { return nil })
}

// isStore tells whether a folder is that of a store.
func isStore(path string) bool {
	st, err := os.Stat(filepath.Join(path, storeFile))
	return err == nil && st.Mode().IsRegular()
}
