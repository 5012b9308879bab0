// Package store keeps the engine's records: what the user asked for in a durable bbolt file under the engine's root,
// and what is true only until the next boot (pids, start times, intents, exits) in a second bbolt file under its run
// folder. One operation is one transaction. The file system follows what the store says, never the other way round.
// It knows nothing about how a container is started.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Names keeps which container has which name, and what it uses, within the transactions that write records. It is where
// names are unique; an ErrNameTaken comes from it.
type Names interface {
	Add(tx *bolt.Tx, id, name string) error
	Rename(tx *bolt.Tx, old, name string) error
	Remove(tx *bolt.Tx, id string) error
}

// ErrNameTaken says that another container already has the name. The error names the holder's id.
type ErrNameTaken struct{ Name, Holder string }

func (e ErrNameTaken) Error() string {
	return fmt.Sprintf("name %s is taken by container %s", e.Name, e.Holder)
}

// Spec is what was asked for: the image's configuration and the request, merged. Durable.
type Spec struct {
	ID      string // 64 hex digits
	Name    string // without the leading slash
	Created time.Time

	Image   string // as the user wrote it
	ImageID string // sha256:…

	Path string // the command after entrypoint and command were merged
	Args []string

	Config   container.Config
	Host     container.HostConfig
	Networks map[string]*network.EndpointSettings

	// Origin is the section of the TOML file that made the container ("container.web"), or empty.
	Origin string `json:",omitempty"`
	// OriginHash changes when that section does.
	OriginHash string `json:",omitempty"`
	// Leases are the container's addresses, by the network's id, given at its first start there and kept until it leaves.
	Leases map[string]Lease `json:",omitempty"`
	// Listen is where its ports are reached from that name no address (netcfg.Where); empty: as the engine says for all.
	Listen []string `json:",omitempty"`
	// Bandwidth is how much it may receive and send on each of its links.
	Bandwidth Bandwidth `json:",omitzero"`
	// Address is that in the default network, of coble before there were others.
	Address string `json:",omitempty"`
	// WantRunning is what the user last asked for; a boot starts containers by it and their restart policy.
	WantRunning bool
	// LastExit is what was known of the container when the engine last shut down politely; a boot starts from it.
	LastExit *State `json:",omitempty"`
}

// Bandwidth is in bits per second; 0: no limit.
type Bandwidth struct{ In, Out uint64 }

// Lease is a container's addresses in one network; not valid where it has none of a family.
type Lease struct{ V4, V6 netip.Addr }

// Status is the life-cycle state, in Docker's words.
type Status = container.ContainerState

// State is what is true of a container now. It lives in the run folder and does not survive a boot.
type State struct {
	Status     Status
	Pid        int    `json:",omitempty"`
	StartTime  uint64 `json:",omitempty"` // field 22 of /proc/PID/stat, in clock ticks since boot
	Starting   bool   `json:",omitempty"` // the intent: kernel objects may exist though no pid is known
	ExitCode   int
	OOMKilled  bool `json:",omitempty"`
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
	// RestartCount counts restarts by policy since the user last started the container.
	RestartCount int
	// StopAsked is set when the user stopped it: the restart policy then leaves it alone.
	StopAsked bool `json:",omitempty"`
	// RestartAt, if set, is when the restart policy starts it again.
	RestartAt time.Time
	// Run counts starts: the spool files of two runs never mix.
	Run int
	// Written is how many bytes earlier runs have written to storage, WrittenNow how many this run had when that was
	// last looked at. A new run adds the one to the other.
	Written    uint64 `json:",omitempty"`
	WrittenNow uint64 `json:",omitempty"`

	// Ends are its links while it runs or starts.
	Ends []End `json:",omitempty"`
	// HostIf is the one link of coble before there were several.
	HostIf string                 `json:",omitempty"`
	Ports  []PortLease            `json:",omitempty"`
	Mounts []container.MountPoint `json:",omitempty"`
}

// Running tells whether there is a process: also while it is paused.
func (s State) Running() bool {
	return s.Status == container.StateRunning || s.Status == container.StatePaused
}

// End is a container's link into one network.
type End struct {
	Network string // id
	Name    string // of the network
	HostIf  string // name of the host's end
	IfName  string // name in the container
	V4, V6  netip.Prefix
	MAC     string
}

// PortLease is one published port of a running container.
type PortLease struct {
	Proto         string
	HostIP        string // empty: every address
	Everywhere    bool   `json:",omitempty"` // that was said (-p 0.0.0.0:…), so Listen does not count
	HostPort      uint16
	ContainerPort uint16
}

// Store is the pair of files. Its methods may be called from any goroutine.
type Store struct {
	Durable *bolt.DB
	Run     *bolt.DB
	names   Names
}

const (
	bucketContainers = "containers"
	bucketNames      = "names" // of coble before names were in the graph
	bucketStates     = "states"
	bucketMeta       = "meta"
)

// ErrLocked is returned by Open when another engine has the store open.
var ErrLocked = errors.New("the store is in use by another engine")

// Open opens or makes both files. root must be on storage that honours fsync; run may be a tmpfs. The durable one has
// room reserved on its file system, where that can be had, so that a full disk does not keep the engine from removing
// what fills it.
func Open(root, run string, names Names) (*Store, error) {
	path := filepath.Join(root, "coble.db")
	d, err := open(path, false, bucketContainers, bucketMeta)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(moveNames(d, names), reserve(path)); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	r, err := open(filepath.Join(run, "state.db"), true, bucketStates, bucketMeta)
	if err != nil {
		d.Close()
		return nil, err
	}
	return &Store{Durable: d, Run: r, names: names}, nil
}

// moveNames takes the names that an older coble kept in a bucket of their own over, in one transaction.
func moveNames(d *bolt.DB, names Names) error {
	old := false
	d.View(func(tx *bolt.Tx) error { old = tx.Bucket([]byte(bucketNames)) != nil; return nil })
	if !old {
		return nil
	}
	err := d.Update(func(tx *bolt.Tx) error {
		err := tx.Bucket([]byte(bucketNames)).ForEach(func(name, id []byte) error {
			return names.Add(tx, string(id), string(name))
		})
		if err != nil {
			return err
		}
		return tx.DeleteBucket([]byte(bucketNames))
	})
	if err != nil {
		return fmt.Errorf("move containers' names into the graph: %w", err)
	}
	return nil
}

// open opens one file, or makes it. A volatile one is not fsynced: it need not survive a power cut, only a killed engine,
// and what a killed process wrote stays in the page cache. A new file gets its name when it is whole: a power cut while
// its first pages are written would leave one that never opens again.
func open(path string, volatile bool, buckets ...string) (*bolt.DB, error) {
	_, err := os.Lstat(path)
	if !errors.Is(err, os.ErrNotExist) {
		return openFile(path, volatile, buckets)
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove unfinished store: %w", err)
	}
	db, err := openFile(fresh, volatile, buckets)
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, fmt.Errorf("make store %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, fmt.Errorf("make store: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return openFile(path, volatile, buckets)
}

func openFile(path string, volatile bool, buckets []string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 5 * time.Second, NoSync: volatile, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: %w; stop that one first, or give this one another --root", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make buckets in %s: %w", path, err), db.Close())
	}
	return db, nil
}

// reserved is how many bytes a store can grow by on a full disk until it is opened again. A transaction writes every page
// that it changes to another place, a few dozen KiB in all.
const reserved = 1 << 20

// reserve allocates blocks behind the end of the file (fallocate(2), FALLOC_FL_KEEP_SIZE). A file system that can't has
// none to give, and a full one keeps what the last start reserved.
func reserve(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("reserve room for the store: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reserve room for the store: %w", err)
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, st.Size()+reserved)
	switch err {
	case nil, unix.ENOSPC, unix.EDQUOT, unix.EOPNOTSUPP, unix.ENOSYS:
		return nil
	}
	return fmt.Errorf("reserve room for the store: %w", err)
}

// syncDir makes a new name in a folder durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Close closes both files.
func (s *Store) Close() error { return errors.Join(s.Durable.Close(), s.Run.Close()) }

// AddContainer writes a new record and claims its name, in one transaction.
func (s *Store) AddContainer(spec Spec) error {
	return s.Durable.Update(func(tx *bolt.Tx) error {
		if err := s.names.Add(tx, spec.ID, spec.Name); err != nil {
			return err
		}
		return putJSON(tx, bucketContainers, spec.ID, spec)
	})
}

// Rename gives a container another name, in one transaction.
func (s *Store) Rename(spec Spec, name string) (Spec, error) {
	old := spec.Name
	spec.Name = name
	return spec, s.Durable.Update(func(tx *bolt.Tx) error {
		if err := s.names.Rename(tx, old, name); err != nil {
			return err
		}
		return putJSON(tx, bucketContainers, spec.ID, spec)
	})
}

// PutContainer rewrites a record whose name has not changed.
func (s *Store) PutContainer(spec Spec) error {
	return s.Durable.Update(func(tx *bolt.Tx) error { return putJSON(tx, bucketContainers, spec.ID, spec) })
}

// PutContainers rewrites several records in one transaction.
func (s *Store) PutContainers(specs []Spec) error {
	return s.Durable.Update(func(tx *bolt.Tx) error {
		for _, spec := range specs {
			if err := putJSON(tx, bucketContainers, spec.ID, spec); err != nil {
				return err
			}
		}
		return nil
	})
}

// RemoveContainer deletes the record, its name and its state.
func (s *Store) RemoveContainer(spec Spec) error {
	err := s.Durable.Update(func(tx *bolt.Tx) error {
		if err := s.names.Remove(tx, spec.ID); err != nil {
			return err
		}
		return tx.Bucket([]byte(bucketContainers)).Delete([]byte(spec.ID))
	})
	if err != nil {
		return err
	}
	return s.Run.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketStates)).Delete([]byte(spec.ID)) })
}

// Containers returns every record. A record that cannot be read is left out and named in the error; the others are
// returned with it, so that one damaged record never hides the rest.
func (s *Store) Containers() ([]Spec, error) {
	var all []Spec
	var bad error
	err := s.Durable.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketContainers)).ForEach(func(k, v []byte) error {
			var spec Spec
			if err := json.Unmarshal(v, &spec); err != nil {
				bad = errors.Join(bad, fmt.Errorf("read record of container %s: %w", k, err))
				return nil
			}
			all = append(all, spec)
			return nil
		})
	})
	return all, errors.Join(err, bad)
}

// PutState writes what is true of a container now.
func (s *Store) PutState(id string, st State) error {
	return s.Run.Update(func(tx *bolt.Tx) error { return putJSON(tx, bucketStates, id, st) })
}

// State reads it back; ok is false where this boot knows nothing of the container.
func (s *Store) State(id string) (st State, ok bool, err error) {
	err = s.Run.View(func(tx *bolt.Tx) error {
		v := tx.Bucket([]byte(bucketStates)).Get([]byte(id))
		if v == nil {
			return nil
		}
		ok = true
		return json.Unmarshal(v, &st)
	})
	return st, ok, err
}

// Meta reads a small durable value of the engine's own, such as its id; nil where there is none.
func (s *Store) Meta(key string) (v []byte) {
	s.Durable.View(func(tx *bolt.Tx) error {
		v = append(v, tx.Bucket([]byte(bucketMeta)).Get([]byte(key))...)
		return nil
	})
	return v
}

// PutMeta writes one.
func (s *Store) PutMeta(key string, v []byte) error {
	return s.Durable.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Put([]byte(key), v) })
}

func putJSON(tx *bolt.Tx, bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", bucket, key, err)
	}
	return tx.Bucket([]byte(bucket)).Put([]byte(key), b)
}

// RunMeta reads a flag that does not survive a boot.
func (s *Store) RunMeta(key string) (set bool) {
	s.Run.View(func(tx *bolt.Tx) error {
		set = tx.Bucket([]byte(bucketMeta)).Get([]byte(key)) != nil
		return nil
	})
	return set
}

// SetRunMeta sets or takes away such a flag.
func (s *Store) SetRunMeta(key string, on bool) error {
	return s.Run.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketMeta))
		if on {
			return b.Put([]byte(key), []byte{1})
		}
		return b.Delete([]byte(key))
	})
}
