package qemu

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// machineProtocol answers as QEMU does: a greeting, then a line for each command.
func machineProtocol(t *testing.T, answer func(command string) string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintln(conn, `{"QMP":{"version":{}}}`)
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					text := answer(lines.Text())
					if text == "" {
						return
					}
					fmt.Fprintln(conn, text)
				}
			}()
		}
	}()
	return path
}

func TestQMP(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path := machineProtocol(t, func(command string) string {
		switch {
		case strings.Contains(command, "system_powerdown"):
			return `{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}` + "\n" + `{"return":{}}`
		case strings.Contains(command, "bad"):
			return `{"error":{"class":"GenericError","desc":"no"}}`
		case strings.Contains(command, "quit"):
			return ""
		}
		return `{"return":{}}`
	})
	q, err := DialQMP(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Execute(ctx, "system_powerdown"); err != nil {
		t.Error(err)
	}
	if e := <-q.Events(); e.Name != "SHUTDOWN" || !e.Data.Guest || e.Data.Reason != "guest-shutdown" {
		t.Errorf("event %+v", e)
	}
	if err := q.Execute(ctx, "bad"); err == nil || !strings.Contains(err.Error(), "GenericError") {
		t.Errorf("error %v", err)
	}
	if err := q.Execute(ctx, "quit"); err == nil {
		t.Error("a closed connection is no error")
	}
	if _, open := <-q.Events(); open {
		t.Error("events go on after the end")
	}
}

func TestDialQMPNeedsQEMU(t *testing.T) {
	if _, err := DialQMP(context.Background(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("connected to nothing")
	}
}
