package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"cloister.dev/cloister/compute/disk"
	"cloister.dev/cloister/compute/vm"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/store"
)

// pingEvery keeps idle streams from being cut, and finds dead ones.
const pingEvery = 10 * time.Second

// errReopen ends a stream that has missed changes; the agent opens a new one and gets a snapshot.
var errReopen = errors.New("the stream has a gap")

func (s *Service) watch(w http.ResponseWriter, r *http.Request) {
	name, err := host(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	messages, ended := make(chan api.Message), make(chan error, 4)
	send := func(m api.Message) error {
		select {
		case messages <- m:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() { ended <- s.followVMs(ctx, name, send) }()

	w.Header().Set("Content-Type", "application/x-ndjson")
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		var m api.Message
		select {
		case m = <-messages:
		case <-ping.C:
			m = api.Message{Kind: api.MessagePing}
		case err := <-ended:
			if err != nil && ctx.Err() == nil && !errors.Is(err, errReopen) {
				s.Log.Error("watch stream", "host", name, "error", err)
			}
			return
		}
		if m.Kind == api.MessageSnapshot {
			go func() { ended <- s.followQuestions(ctx, name, send) }()
			for _, disks := range []store.Store[disk.Disk]{s.VMs.Disks.Store, s.VMs.Disks.Snapshots} {
				go func() { ended <- followDisks(ctx, disks, name, send) }()
			}
		}
		if out.Encode(m) != nil || flush.Flush() != nil {
			return // the agent has gone and will come back
		}
	}
}

func (s *Service) followVMs(ctx context.Context, name string, send func(api.Message) error) error {
	first := true
	return s.VMs.VMs.Follow(ctx, "", func(items []store.Item[vm.VM]) error {
		if !first {
			return errReopen
		}
		first = false
		m := api.Message{Kind: api.MessageSnapshot, VMs: []api.VMSpec{}}
		for _, it := range items {
			if it.Value.Host == name {
				m.VMs = append(m.VMs, it.Value.Spec())
			}
		}
		return send(m)
	}, func(e store.Event[vm.VM]) error {
		v := e.Item.Value
		switch {
		case e.Deleted && v.VMID == "":
			return errReopen // the old value is compacted: whose it was is not known
		case v.Host != name:
			return nil
		case e.Deleted:
			return send(api.Message{Kind: api.MessageGone, VMID: v.VMID})
		}
		spec := v.Spec()
		return send(api.Message{Kind: api.MessageVM, VM: &spec, VMID: v.VMID})
	})
}

func (s *Service) followQuestions(ctx context.Context, name string, send func(api.Message) error) error {
	pass := func(q vm.Question) error {
		if q.Host != name || q.Answer != nil {
			return nil
		}
		return send(api.Message{Kind: api.MessageRequest, VMID: q.Request.VMID, Request: &q.Request})
	}
	return s.VMs.Questions.Follow(ctx, "", func(items []store.Item[vm.Question]) error {
		for _, it := range items {
			if err := pass(it.Value); err != nil {
				return err
			}
		}
		return nil
	}, func(e store.Event[vm.Question]) error {
		if e.Deleted {
			return nil
		}
		return pass(e.Item.Value)
	})
}

// followDisks tells a host of its data disks. What it misses between two streams does no harm: one that is not named stays.
func followDisks(ctx context.Context, disks store.Store[disk.Disk], name string, send func(api.Message) error) error {
	pass := func(d disk.Disk) error {
		if d.OS() || d.Host != name {
			return nil
		}
		spec := d.Spec()
		return send(api.Message{Kind: api.MessageDisk, Disk: &spec})
	}
	return disks.Follow(ctx, "", func(items []store.Item[disk.Disk]) error {
		for _, it := range items {
			if err := pass(it.Value); err != nil {
				return err
			}
		}
		return nil
	}, func(e store.Event[disk.Disk]) error {
		if e.Deleted {
			return nil
		}
		return pass(e.Item.Value)
	})
}
