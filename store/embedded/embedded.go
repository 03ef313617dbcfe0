// Package embedded runs one etcd member inside the process, for a single server.
//
// Nothing listens on the network: the peer socket, which a lone member never uses, is a Unix socket in a private
// folder, and clients are connected in memory.
package embedded

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// Server is a running member.
type Server struct {
	etcd    *embed.Etcd
	client  *clientv3.Client
	sockets string
}

// Options of a member.
type Options struct {
	Dir    string // data; made with mode 0700
	NoSync bool   // tests only: no fsync, so a power cut loses data
}

// Start starts a member and waits until it serves.
func Start(ctx context.Context, o Options) (*Server, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the etcd folder: %w", err)
	}
	sockets, err := socketDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("making the etcd socket folder: %w", err)
	}
	// etcd listens at the host part of a Unix URL; without one it would take an abstract socket, which every
	// local user can reach.
	listen := url.URL{Scheme: "unix", Host: filepath.Join(sockets, "peer")}
	// Fixed, unlike the socket: it is written into the cluster's membership at the first start.
	peer := url.URL{Scheme: "unix", Host: "cloister"}
	cfg := embed.NewConfig()
	cfg.Name = "cloister"
	cfg.Dir = o.Dir
	cfg.LogLevel = "fatal" // what matters comes by Err; the rest is noise of starting and stopping
	cfg.ListenPeerUrls = []url.URL{listen}
	cfg.AdvertisePeerUrls = []url.URL{peer}
	cfg.ListenClientUrls = nil
	cfg.AdvertiseClientUrls = []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 20, 200 // nobody to vote against
	cfg.UnsafeNoFsync = o.NoSync
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "revision", "10000"
	cfg.QuotaBackendBytes = 2 << 30
	cfg.MaxRequestBytes = 4 << 20
	cfg.MaxTxnOps = 512
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		os.RemoveAll(sockets)
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	s := &Server{etcd: e, sockets: sockets}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		s.Stop()
		return nil, fmt.Errorf("starting etcd: %w", err)
	case <-ctx.Done():
		s.Stop()
		return nil, fmt.Errorf("starting etcd: %w", ctx.Err())
	case <-time.After(30 * time.Second):
		s.Stop()
		return nil, fmt.Errorf("starting etcd: not ready after 30 s")
	}
	s.client = v3client.New(e.Server)
	return s, nil
}

// socketDir is a private folder whose name is short enough for a socket path (107 bytes).
func socketDir(data string) (string, error) {
	dir := filepath.Join(data, "run")
	if len(dir) > 90 {
		return os.MkdirTemp("", "cloister-etcd-")
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// Client is connected in memory. Stop closes it.
func (s *Server) Client() *clientv3.Client { return s.client }

// Err tells when the member ends by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Stop ends the member; all acknowledged writes are on disk.
func (s *Server) Stop() {
	if s.client != nil {
		s.client.Close()
	}
	s.etcd.Close()
	os.RemoveAll(s.sockets)
}
