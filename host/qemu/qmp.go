package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// QMP is a connection to one QEMU's machine protocol. Only the agent opens it; no API passes commands on.
type QMP struct {
	conn    net.Conn
	mu      sync.Mutex // one command at a time
	replies chan reply
	events  chan QMPEvent
	closed  chan struct{}
}

// QMPEvent is something QEMU tells unasked.
type QMPEvent struct {
	Name string
	Data struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"` // of SHUTDOWN: guest-shutdown, guest-reset, host-qmp-quit, …
	}
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// DialQMP connects and negotiates.
func DialQMP(ctx context.Context, socket string) (*QMP, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("machine protocol: %w", err)
	}
	q := &QMP{conn: conn, replies: make(chan reply, 1), events: make(chan QMPEvent, 16), closed: make(chan struct{})}
	go q.read()
	if err := q.Execute(ctx, "qmp_capabilities"); err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// Events carries what QEMU tells; it is closed when the connection ends.
func (q *QMP) Events() <-chan QMPEvent { return q.events }

// Close ends the connection, not QEMU.
func (q *QMP) Close() { _ = q.conn.Close() }

func (q *QMP) read() {
	defer close(q.events)
	defer close(q.closed)
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m struct {
			Event string          `json:"event"`
			QMP   json.RawMessage `json:"QMP"`
			Data  json.RawMessage `json:"data"`
			reply
		}
		if json.Unmarshal(lines.Bytes(), &m) != nil || m.QMP != nil {
			continue // the greeting; QEMU sends nothing else that is no JSON
		}
		if m.Event == "" {
			select {
			case q.replies <- m.reply:
			default: // an answer nobody waits for any more
			}
			continue
		}
		e := QMPEvent{Name: m.Event}
		if len(m.Data) > 0 {
			_ = json.Unmarshal(m.Data, &e.Data) // other events have other data, which nobody reads
		}
		select {
		case q.events <- e:
		default: // a reader that is 16 events behind watches the process instead
		}
	}
}

// Execute runs a command without arguments.
func (q *QMP) Execute(ctx context.Context, command string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	line, err := json.Marshal(map[string]string{"execute": command})
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = q.conn.SetWriteDeadline(deadline)
	} else {
		_ = q.conn.SetWriteDeadline(time.Time{})
	}
	if _, err := q.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("machine protocol, %s: %w", command, err)
	}
	select {
	case r := <-q.replies:
		if r.Error != nil {
			return fmt.Errorf("machine protocol, %s: %s: %s", command, r.Error.Class, r.Error.Desc)
		}
		return nil
	case <-q.closed:
		return fmt.Errorf("machine protocol, %s: %w", command, errors.New("connection closed"))
	case <-ctx.Done():
		return ctx.Err()
	}
}
