package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// roundTrip subscribes to a topic, publishes on it and waits for the message to come back (MQTT 3.1.1, QoS 0). It asks
// until the broker answers.
func roundTrip(ctx context.Context, addr string) error {
	for {
		err := tryRoundTrip(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func tryRoundTrip(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	connect := packet(0x10, []byte("\x00\x04MQTT\x04\x02\x00\x3c\x00\x05coble"))
	subscribe := packet(0x82, []byte("\x00\x01\x00\x04demo\x00"))
	publish := packet(0x30, []byte("\x00\x04demohello"))
	for _, step := range []struct {
		send   []byte
		expect byte // type of the answer, in the high four bits
	}{{connect, 0x20}, {subscribe, 0x90}, {publish, 0x30}} {
		if _, err := c.Write(step.send); err != nil {
			return err
		}
		typ, body, err := read(c)
		if err != nil {
			return err
		}
		if typ&0xf0 != step.expect {
			return fmt.Errorf("broker answers %#x, not %#x", typ, step.expect)
		}
		if step.expect == 0x30 && !bytes.HasSuffix(body, []byte("hello")) {
			return fmt.Errorf("broker sends %q", body)
		}
	}
	return nil
}

// packet is a control packet of at most 127 bytes.
func packet(typ byte, body []byte) []byte { return append([]byte{typ, byte(len(body))}, body...) }

func read(r io.Reader) (typ byte, body []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[1] > 127 {
		return 0, nil, errors.New("long packet")
	}
	body = make([]byte, head[1])
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}
