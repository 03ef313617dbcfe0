package compute

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/deployment"
	"cloister.dev/cloister/compute/disk"
	"cloister.dev/cloister/compute/encryptionset"
	"cloister.dev/cloister/compute/hosts"
	"cloister.dev/cloister/compute/imagesvc"
	"cloister.dev/cloister/compute/network"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/platform"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/compute/sshkey"
	"cloister.dev/cloister/compute/vault"
	"cloister.dev/cloister/compute/vm"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/store"
	"cloister.dev/cloister/store/embedded"
)

// Deps are what the control plane does not make by itself.
type Deps struct {
	Etcd   *clientv3.Client // nil: as the configuration says, see OpenEtcd
	MintVM func(vmID, resourceID, audience string) (string, error)
	Keys   vm.GuestStateKeys     // nil: see vm.Service.Keys
	Maker  vm.GuestStateKeyMaker // nil: see vm.Service.Maker
	Vaults vault.Keeper          // nil: the key keeper makes no vaults
	Judge  hosts.Judge           // nil: by the configuration's floors and roots
	SignIn http.Handler          // the embedded sign-in, which clients find at the ARM endpoint; nil: it is elsewhere
	Now    func() time.Time
	Log    *slog.Logger
	// AnswerWait bounds the wait for an answer from a VM; zero is a minute.
	AnswerWait time.Duration
}

// migrations lead from one schema of the records in etcd to the next. There is one schema so far.
var migrations []store.Migration

// Server is the control plane.
type Server struct {
	cfg         Config
	deps        Deps
	arm         http.Handler
	agents      http.Handler
	vms         *vm.Service
	deployments *deployment.Service
	operations  *operations.Service
	ca          *hosts.CA
}

// OpenEtcd connects to the cluster that the configuration names, or starts a member. The function returned ends it.
func OpenEtcd(ctx context.Context, c Config) (*clientv3.Client, func(), error) {
	if len(c.Etcd.Endpoints) == 0 {
		e, err := embedded.Start(ctx, embedded.Options{Dir: filepath.Join(c.StateDir, "etcd")})
		if err != nil {
			return nil, nil, err
		}
		return e.Client(), e.Stop, nil
	}
	cfg := clientv3.Config{Endpoints: c.Etcd.Endpoints, DialTimeout: 10 * time.Second, Context: ctx}
	if c.Etcd.CA != "" {
		pem, err := os.ReadFile(c.Etcd.CA)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the etcd CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("reading the etcd CA: %s holds no certificate", c.Etcd.CA)
		}
		cert, err := tls.LoadX509KeyPair(c.Etcd.Cert, c.Etcd.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the etcd client certificate: %w", err)
		}
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{cert}}
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to etcd: %w", err)
	}
	return client, func() { _ = client.Close() }, nil
}

// New puts the control plane together. Nothing runs yet: see Run and Serve.
func New(c Config, d Deps) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if d.Etcd == nil || d.MintVM == nil || d.Now == nil || d.Log == nil {
		return nil, errors.New("compute.New: etcd client, token minter, clock and log are needed")
	}
	if d.AnswerWait == 0 {
		d.AnswerWait = time.Minute
	}
	verifier, err := identity.NewVerifier(c.Identity)
	if err != nil {
		return nil, err
	}
	ca, err := hosts.LoadCA(c.StateDir, d.Now())
	if err != nil {
		return nil, err
	}

	judge := d.Judge
	if judge == nil {
		if judge, err = c.Health.judge(); err != nil {
			return nil, err
		}
	}
	db := store.Open(d.Etcd, "/cloister/compute")
	starting, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	if err := db.Migrate(starting, migrations); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	ops := &operations.Service{Store: store.Of[operations.Operation](db, "operation"), Endpoint: c.Endpoint, Location: c.Location, Now: d.Now, Authorize: c.Roles.Allowed, Log: d.Log}
	groups := &resources.Groups{DB: db, Store: store.Of[resources.Group](db, "group"), Operations: ops, Location: c.Location, Now: d.Now, Log: d.Log}
	nets := &network.Service{DB: db, VNets: store.Of[network.VNet](db, "vnet"), NICs: store.Of[network.NIC](db, "nic"), Groups: groups, Location: c.Location, Now: d.Now}
	disks := &disk.Service{DB: db, Store: store.Of[disk.Disk](db, "disk"), Snapshots: store.Of[disk.Disk](db, "snapshot"), Hosts: store.Of[scheduler.Host](db, "host"), Groups: groups,
		Operations: ops, Location: c.Location, Zones: c.Zones, Now: d.Now}
	images := &imagesvc.Service{Dir: c.ImageDir, Location: c.Location, MinDiskGiB: c.MinDiskGiB}
	sets := &encryptionset.Service{DB: db, Store: store.Of[encryptionset.Set](db, "encryptionset"), Groups: groups, Location: c.Location, TenantID: c.TenantID, VaultSuffix: c.VaultSuffix, Now: d.Now}
	sshKeys := &sshkey.Service{DB: db, Store: store.Of[sshkey.Key](db, "sshkey"), Groups: groups, Location: c.Location, Now: d.Now}
	vaults := &vault.Service{DB: db, Vaults: store.Of[vault.Vault](db, "vault"), Pools: store.Of[vault.Vault](db, "pool"), Groups: groups, Keeper: d.Vaults, Operations: ops, Location: c.Location, TenantID: c.TenantID, Now: d.Now}
	vms := &vm.Service{
		DB: db, VMs: store.Of[vm.VM](db, "vm"), Statuses: store.Of[vm.Status](db, "vmstatus"), Journeys: store.Of[vm.Journey](db, "journey"),
		Identities: store.Of[vm.Identity](db, "vmid"), Questions: store.Of[vm.Question](db, "question"), Usages: store.Of[quota.Usage](db, "usage"),
		Hosts: store.Of[scheduler.Host](db, "host"), Placements: store.Of[scheduler.Placement](db, "placement"), Alive: store.Of[time.Time](db, "alive"), Health: store.Of[platform.Health](db, "hosthealth"),
		Groups: groups, Disks: disks, EncryptionSets: sets, Network: nets, Images: images, Operations: ops,
		Location: c.Location, Zones: c.Zones, Limits: c.Quota, Cap: c.Cap, CPUModel: c.CPUModel, Attest: c.Attest, KeyService: c.Keys,
		Keys: d.Keys, Maker: d.Maker, Now: d.Now, Wait: d.AnswerWait, Log: d.Log,
	}
	disks.Idle, disks.Grown, disks.Authorize = vms.Idle, vms.Grown, c.Roles.Allowed
	deployments := &deployment.Service{DB: db, Store: store.Of[deployment.Deployment](db, "deployment"), Sources: store.Of[deployment.Source](db, "deploymentsource"), Owners: store.Of[time.Time](db, "deploymentowner"),
		Groups: groups, Operations: ops, Endpoint: c.Endpoint, TenantID: c.TenantID, Now: d.Now, Log: d.Log,
		Environment: map[string]any{"name": "Cloister", "resourceManager": c.Endpoint + "/", "authentication": map[string]any{"loginEndpoint": c.Authority + "/", "tenant": c.TenantID}, "suffixes": map[string]any{"keyvaultDns": "." + c.VaultSuffix}}}
	deployments.Init()
	groups.Contents = []resources.Content{deployments, vms, disks, sets, nets, vaults, sshKeys}
	cloud := &resources.Cloud{Endpoint: c.Endpoint, Authority: c.Authority, TenantID: c.TenantID, Subscription: c.Subscriptions, Location: c.Location,
		Audiences: c.Identity.Audiences, VaultSuffix: c.VaultSuffix, AttestURL: c.Attest.URL, Authorize: c.Roles.Allowed,
		ResourceTypes: map[string][]string{
			"Microsoft.Compute":   {"virtualMachines", "disks", "snapshots", "diskEncryptionSets", "images", "sshPublicKeys", "locations/operations", "locations/usages", "skus"},
			"Microsoft.Network":   {"virtualNetworks", "virtualNetworks/subnets", "networkInterfaces"},
			"Microsoft.KeyVault":  {"vaults", "vaults/accessPolicies", "managedHSMs", "deletedVaults", "deletedManagedHSMs", "locations/deletedVaults", "locations/deletedManagedHSMs", "checkNameAvailability"},
			"Microsoft.Resources": {"resourceGroups", "deployments"},
		}}
	agents := &hosts.Service{DB: db, Tokens: store.Of[hosts.UsedToken](db, "jointoken"), VMs: vms, CA: ca, TokenDigests: c.JoinTokens, MintVM: d.MintVM, Judge: judge, Now: d.Now, Log: d.Log}

	registry := prometheus.NewRegistry()
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cloister_compute_request_seconds", Help: "Time to answer a call of the ARM API, by route and status.",
		Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60}}, []string{"route", "status"})
	registry.MustRegister(took, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	router := &arm.Router{Authenticate: verifier.FromRequest, Authorize: c.Roles.Allowed, Subscription: cloud.Has, Limits: arm.NewLimiter(c.RateLimits), Now: d.Now, Log: d.Log,
		Challenge: c.Authority + "/" + c.TenantID,
		Observe: func(route string, status int, t time.Duration) {
			took.WithLabelValues(route, fmt.Sprint(status)).Observe(t.Seconds())
		}}
	for _, part := range []interface{ Routes() []arm.Route }{cloud, groups, deployments, nets, disks, sets, vaults, sshKeys, images, vms, ops} {
		router.Routes = append(router.Routes, part.Routes()...)
	}
	deployments.Router = router
	s := &Server{cfg: c, deps: d, agents: agents.Handler(), vms: vms, deployments: deployments, operations: ops, ca: ca}
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	s.arm = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			metrics.ServeHTTP(w, r)
		case "/healthz":
			s.health(w, r)
		default:
			if d.SignIn != nil && isSignIn(r.URL.Path) {
				d.SignIn.ServeHTTP(w, r)
				return
			}
			router.ServeHTTP(w, r)
		}
	})
	return s, nil
}

// isSignIn tells the paths of sign-in, whose first segment is a tenant, from those of the ARM API.
func isSignIn(path string) bool {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return guid.MatchString(strings.ToLower(first)) && rest != ""
}

// health asks etcd: without it nothing can be answered.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if _, err := s.deps.Etcd.Get(ctx, "health"); err != nil {
		http.Error(w, "etcd does not answer", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprint(w, "ok")
}

// ARM is the API of tenants.
func (s *Server) ARM() http.Handler { return s.arm }

// Agents is the API of hosts. It must be served with AgentTLS.
func (s *Server) Agents() http.Handler { return s.agents }

// AgentTLS asks for client certificates of the agent CA; Join works without one. Sessions are not resumed: each
// connection is checked in full.
func (s *Server) AgentTLS(cert tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Cert)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, SessionTicketsDisabled: true, Time: s.deps.Now}
}

// Run brings resources to where they should be, until the context is done.
func (s *Server) Run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return s.vms.Run(inner) })
	group.Go(func() error { return s.deployments.Run(inner) })
	group.Go(func() error { return s.operations.Run(inner) })
	err := group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Serve listens as the configuration says and runs, until the context is done. ready, if not nil, is called once
// both listeners are open.
func (s *Server) Serve(ctx context.Context, ready func()) error {
	cert, err := tls.LoadX509KeyPair(s.cfg.TLS.Cert, s.cfg.TLS.Key)
	if err != nil {
		return fmt.Errorf("reading the server certificate: %w", err)
	}
	armTLS := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	agentTLS := s.AgentTLS(cert)
	agentTLS.NextProtos = []string{"h2", "http/1.1"}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range []struct {
		addr    string
		tls     *tls.Config
		handler http.Handler
	}{{s.cfg.Listen, armTLS, s.arm}, {s.cfg.AgentListen, agentTLS, s.agents}} {
		listener, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("listening at %s: %w", l.addr, err)
		}
		// Streams end with this context, so that shutting down does not wait for them.
		server := &http.Server{Handler: l.handler, TLSConfig: l.tls, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
			BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(s.deps.Log.Handler(), slog.LevelDebug)}
		group.Go(func() error {
			if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving at %s: %w", l.addr, err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := server.Shutdown(stop); err != nil {
				return server.Close()
			}
			return nil
		})
	}
	group.Go(func() error { return s.Run(ctx) })
	if ready != nil {
		ready()
	}
	return group.Wait()
}

// Describe is the line that is logged at the start.
func (s *Server) Describe() string {
	return fmt.Sprintf("control plane of %s at %s, subscriptions %s", s.cfg.Location, s.cfg.Endpoint, strings.Join(s.cfg.Subscriptions, ", "))
}
