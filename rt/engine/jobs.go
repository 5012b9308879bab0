package engine

import (
	"github.com/coble-os/coble/rt/job"
)

// registerJobs puts into the table what the engine itself can be asked for. Its parts have put in theirs.
func (e *Engine) registerJobs() {
	job.Register(e.Jobs, "create", e.create)
	job.Register(e.Jobs, "start", e.start)
	job.Register(e.Jobs, "stop", e.stop)
	job.Register(e.Jobs, "restart", e.restart)
	job.Register(e.Jobs, "restart-by-policy", e.restartByPolicy)
	job.Register(e.Jobs, "kill", e.kill)
	job.Register(e.Jobs, "pause", e.pause)
	job.Register(e.Jobs, "unpause", e.unpause)
	job.Register(e.Jobs, "wait", e.wait)
	job.Register(e.Jobs, "rm", e.remove)
	job.Register(e.Jobs, "rename", e.rename)
	job.Register(e.Jobs, "prune", e.prune)
	job.Register(e.Jobs, "resize", e.resize)
	job.Register(e.Jobs, "attach", e.attach)
	job.Register(e.Jobs, "logs", e.logs)
	job.Register(e.Jobs, "update", e.update)
	job.Register(e.Jobs, "commit", e.commit)
	job.Register(e.Jobs, "export", e.export)
	job.Register(e.Jobs, "changes", e.changes)
	job.Register(e.Jobs, "copy-stat", e.copyStat)
	job.Register(e.Jobs, "copy-from", e.copyFrom)
	job.Register(e.Jobs, "copy-to", e.copyTo)
	job.Register(e.Jobs, "info", e.info)
	job.Register(e.Jobs, "launch", e.launch)
	job.Register(e.Jobs, "shutdown", e.shutdown)
	job.Register(e.Jobs, "serveapi", func(_ *job.Job, serve func() error) (any, error) { return nil, serve() })
}
