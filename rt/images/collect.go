package images

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/retention"
	"github.com/coble-os/coble/rt/job"
)

// keepRules are what the TOML file says about images that nobody uses.
type keepRules struct {
	limits retention.Limits
	names  []string // of images that stay
}

// rulesOf is pure. Images that the file names stay, whether as a section or as a container's. While the file has a mistake
// nobody knows all that it means to name: then nothing is removed.
func rulesOf(c configs.Config, problems []configs.Problem) keepRules {
	if len(problems) > 0 {
		return keepRules{}
	}
	r := keepRules{limits: retention.Limits{Max: int64(c.Storage.ImagesMax), Unused: time.Duration(c.Storage.ImagesUnused)}}
	r.names = slices.AppendSeq(r.names, maps.Keys(c.Image))
	for _, ct := range c.Container {
		r.names = append(r.names, ct.Image)
	}
	return r
}

// text is what the limits are, for people.
func (r keepRules) text() []string {
	var out []string
	if r.limits.Max > 0 {
		out = append(out, "images_max="+units.BytesSize(float64(r.limits.Max)))
	}
	if r.limits.Unused > 0 {
		out = append(out, "images_unused="+configs.Age(r.limits.Unused).String())
	}
	return out
}

// Keep takes over what the TOML file says about images that nobody uses. It takes effect at the next CollectSoon.
func (im *Store) Keep(c configs.Config, problems []configs.Problem) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.rules = rulesOf(c, problems)
}

func (im *Store) keepRules() keepRules {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.rules
}

// collectEvery is how often images are looked at when nothing comes in.
const collectEvery = 24 * time.Hour

// collectDaily runs until the engine ends.
func (im *Store) collectDaily() {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			im.CollectSoon()
		case <-im.ctx.Done():
			return
		}
	}
}

// CollectSoon begins the job collect, if there are limits; nobody waits for it.
func (im *Store) CollectSoon() {
	rules := im.keepRules()
	if rules.limits == (retention.Limits{}) {
		return
	}
	go func() {
		if err := job.Do(im.ctx, im.o.Jobs, "collect", struct{}{}, rules.text()...); err != nil && im.ctx.Err() == nil {
			im.o.Log.Error("collect images", "err", err)
		}
	}()
}

// collect removes images until the limits hold. One that comes into use meanwhile stays.
func (im *Store) collect(j *job.Job, _ struct{}) (any, error) {
	im.collecting.Lock()
	defer im.collecting.Unlock()
	rules := im.keepRules()
	all, sizes, err := im.Holdings()
	if err != nil {
		return nil, err
	}
	kept := map[image.ID]bool{}
	for _, n := range rules.names {
		if img, err := im.Get(n); err == nil {
			kept[img.ID] = true
		}
	}
	for _, v := range im.o.Containers.Views() {
		kept[image.ID(v.ImageID)] = true
	}
	at := time.Now().UTC()
	for i := range all {
		all[i].Kept = all[i].Kept || kept[all[i].ID]
		if all[i].StaleUse(at) {
			im.Used(all[i].ID.String()) // its age counts from now on
		}
	}
	excess, over := retention.Exceeding(rules.limits, at, all, sizes)
	var gone []string
	for _, x := range excess {
		if err := j.Context().Err(); err != nil {
			return nil, err
		}
		removed, err := im.dropImage(x)
		if err != nil {
			return nil, err
		}
		if removed {
			gone = append(gone, imageTitle(x.Holding))
		}
	}
	if len(gone) > 0 {
		j.Note("removed " + strings.Join(gone, ", "))
	}
	if over > 0 {
		im.o.Log.Warn("images take more than they should, and all are needed", "limit", units.BytesSize(float64(rules.limits.Max)), "over", units.BytesSize(float64(over)))
	}
	return nil, nil
}

// dropImage removes one image with its names, unless somebody has begun to use it.
func (im *Store) dropImage(x retention.Excess) (bool, error) {
	gone, err := im.removeUnused(x.ID)
	if err != nil {
		return false, fmt.Errorf("remove image %s: %w", imageTitle(x.Holding), err)
	}
	if len(gone) == 0 {
		return false, nil
	}
	im.o.Log.Info("image removed", "image", imageTitle(x.Holding), "because", string(x.Why), "used", x.Used.Format(time.DateOnly))
	return true, nil
}

func imageTitle(h retention.Holding) string {
	if len(h.Names) > 0 {
		return h.Names[0]
	}
	return h.ID.Encoded()[:12]
}

// Used notes that an image was used now.
func (im *Store) Used(id string) {
	if err := im.Use(image.ID(id), time.Now().UTC()); err != nil {
		im.o.Log.Error("note use of image", "image", id, "err", err)
	}
}
