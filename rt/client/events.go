package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
)

func eventsVerb(f *pflag.FlagSet) command.Run {
	since := f.String("since", "", "from this time on: seconds since 1970 or RFC 3339")
	until := f.String("until", "", "up to this time, then end")
	return func(ctx context.Context, a *command.App, args []string) error {
		q := url.Values{}
		for k, v := range map[string]string{"since": *since, "until": *until} {
			if v != "" {
				q.Set(k, v)
			}
		}
		resp, err := a.Do(ctx, "GET", "/events", q, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		for d := json.NewDecoder(resp.Body); ; {
			var m events.Message
			if err := d.Decode(&m); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			fmt.Fprintf(a.Out, "%s %s %s %s (%s)\n", time.Unix(0, m.TimeNano).Format(time.RFC3339Nano), m.Type, m.Action, m.Actor.ID, m.Actor.Attributes["name"])
		}
	}
}
