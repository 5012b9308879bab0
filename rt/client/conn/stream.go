package conn

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Hijack opens a raw stream (POST with Upgrade: tcp): what the engine sends is read from the reader, what the container
// should read is written to the connection, which the caller closes.
func (c *Conn) Hijack(ctx context.Context, path string, query url.Values, body io.Reader) (_ net.Conn, _ *bufio.Reader, err error) {
	t := c.http.Transport.(*http.Transport)
	nc, err := t.DialContext(ctx, "", "")
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	defer func() {
		if err != nil {
			nc.Close()
		}
	}()
	req, err := http.NewRequest("POST", "http://localhost/v1.43"+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	if err := req.Write(nc); err != nil {
		return nil, nil, err
	}
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, readError(resp)
	}
	return nc, br, nil
}

// Demux takes the frames of the attach protocol apart: a byte with the stream's number (2 is standard error), three of
// padding, four with the length, and the content. It returns nil at the stream's end.
func Demux(r io.Reader, out, errs io.Writer) error {
	var head [8]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		w := out
		if head[0] == 2 {
			w = errs
		}
		if _, err := io.CopyN(w, r, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return err
		}
	}
}
