package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/util/workqueue"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/disk"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/store"
)

// groupsItem is the queue's item for groups that are being deleted; no VM has this key.
const groupsItem = ""

// Run brings VMs and groups to where they should be, until the context is done. Any number of servers may run it
// at once: each step is one transaction that holds only for what was read.
func (s *Service) Run(ctx context.Context) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 30*time.Second))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	follow := func(what string, f func() error) {
		go func() {
			if err := f(); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("following %s: %w", what, err))
			}
		}()
	}
	follow("VMs", func() error {
		return s.VMs.Follow(ctx, "", func(items []store.Item[VM]) error {
			for _, it := range items {
				queue.Add(it.ID)
			}
			queue.Add(groupsItem)
			return nil
		}, func(e store.Event[VM]) error {
			queue.Add(e.Item.ID)
			if e.Deleted {
				queue.Add(groupsItem)
			}
			return nil
		})
	})
	follow("statuses", func() error {
		_, rev, err := s.Statuses.List(ctx, "")
		if err != nil {
			return err
		}
		for {
			err := s.Statuses.Watch(ctx, "", rev, func(e store.Event[Status]) error {
				if e.Item.Value.VM != "" {
					queue.Add(e.Item.Value.VM)
				}
				return nil
			})
			if !errors.Is(err, store.ErrTooOld) {
				return err
			}
			var items []store.Item[Status]
			if items, rev, err = s.Statuses.List(ctx, ""); err != nil {
				return err
			}
			for _, it := range items {
				queue.Add(it.Value.VM)
			}
		}
	})
	for what, disks := range map[string]store.Store[disk.Disk]{"disks": s.Disks.Store, "snapshots": s.Disks.Snapshots} {
		follow(what, func() error { // a group that is being deleted waits for its disks, and they for their copies
			return disks.Follow(ctx, "", func([]store.Item[disk.Disk]) error {
				queue.Add(groupsItem)
				return nil
			}, func(e store.Event[disk.Disk]) error {
				if e.Deleted || e.Item.Value.VM == "" {
					queue.Add(groupsItem)
				}
				return nil
			})
		})
	}
	follow("groups", func() error {
		_, rev, err := s.Groups.Store.List(ctx, "")
		if err != nil {
			return err
		}
		return s.Groups.Store.Watch(ctx, "", rev, func(e store.Event[resources.Group]) error {
			if e.Item.Value.Deleting != "" {
				queue.Add(groupsItem)
			}
			return nil
		})
	})
	go func() {
		<-ctx.Done()
		queue.ShutDown()
	}()
	for {
		key, stop := queue.Get()
		if stop {
			return context.Cause(ctx)
		}
		if err := s.step(ctx, key); err != nil && ctx.Err() == nil {
			if !errors.Is(err, store.ErrConflict) {
				s.Log.Error("reconciling", "resource", key, "error", err)
			}
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func (s *Service) step(ctx context.Context, key string) error {
	if key == groupsItem {
		return s.Groups.Step(ctx)
	}
	it, err := s.VMs.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	seen, err := s.observed(ctx, it.Value)
	if err != nil {
		return err
	}
	if it.Value.Deleting {
		return s.stepDelete(ctx, it, seen)
	}
	if it.Value.KeyPending {
		return s.makeKey(ctx, it)
	}
	return s.settle(ctx, it, seen)
}

// makeKey makes the key of an operator-trusted VM, before its host may start it.
func (s *Service) makeKey(ctx context.Context, it store.Item[VM]) error {
	if s.Maker == nil {
		return fmt.Errorf("VM %s waits for a guest-state key, and this server makes none", it.Value.VMID)
	}
	if err := s.Maker.Create(ctx, it.Value); err != nil {
		return fmt.Errorf("making the guest-state key of %s: %w", it.Value.VMID, err)
	}
	it.Value.KeyPending = false
	it.Value.Generation++ // what the host is told changes from stopped to running
	if err := s.VMs.Update(ctx, it); err != nil {
		return err
	}
	afterKeyMade.Hit()
	return nil
}

// settle ends the operation under way when the host reports its outcome.
func (s *Service) settle(ctx context.Context, it store.Item[VM], seen *api.VMStatus) error {
	v := &it.Value
	if seen == nil || seen.Generation != v.Generation || v.Operation == "" {
		return nil
	}
	op, status := v.Operation, operations.Succeeded
	switch {
	case seen.Phase == api.PhaseFailed:
		status = operations.Failed
		v.Failure = failureOf(seen)
		v.Provisioning = failed
	case seen.Power == v.Power && seen.RestartCount == v.RestartCount:
		v.Failure, v.Provisioning = nil, succeeded
	default:
		return nil
	}
	tx := s.DB.Txn()
	if seen.Power == api.PowerDeallocated && !v.Released {
		if err := s.release(ctx, tx, v); err != nil {
			return err
		}
		v.Released = true
	}
	if err := s.Operations.FinishIn(ctx, tx, op, status, v.Failure); err != nil {
		return err
	}
	v.Operation = ""
	s.VMs.UpdateIn(tx, it)
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	afterSettled.Hit()
	return nil
}

// failureOf turns a host's refusal into what the tenant reads.
func failureOf(seen *api.VMStatus) *arm.Error {
	if seen.Failure == nil {
		return arm.Errorf(http.StatusConflict, "VMStartFailed", "The host reports a failure without a reason.")
	}
	return arm.Errorf(http.StatusConflict, "VMStartFailed", "%s", seen.Failure.Error()).At(seen.Failure.Field)
}

// release gives cores and memory back.
func (s *Service) release(ctx context.Context, tx *store.Txn, v *VM) error {
	place, err := s.placement(ctx, v.Host)
	if err != nil {
		return err
	}
	delete(place.Value.VMs, v.VMID)
	s.Placements.UpdateIn(tx, place)
	return nil
}

// stepDelete destroys the key first, then waits for the host, then removes all traces in one transaction.
func (s *Service) stepDelete(ctx context.Context, it store.Item[VM], seen *api.VMStatus) error {
	v := it.Value
	if !v.KeyDestroyed {
		outcome := "none: the VM keeps no guest state"
		if v.Encryption != api.ModeNonPersisted {
			outcome = "left to the tenant: this control plane destroys no keys"
			if s.Keys != nil {
				var err error
				if outcome, err = s.Keys.Destroy(ctx, v); err != nil {
					return fmt.Errorf("destroying the guest-state key of %s: %w", v.VMID, err)
				}
			}
		}
		s.Log.Info("deleting a VM", "vm", v.VMID, "key", outcome)
		state := map[string]string{"key": outcome}
		if err := s.AddEvents(ctx, v.VMID, []api.Event{{VMID: v.VMID, Time: s.Now().UTC(), Step: "delete-key", State: api.StepDone, Detail: state}}); err != nil {
			return err
		}
		it.Value.KeyDestroyed = true
		it.Value.Generation++ // what the host is told changes from stopped to deleted
		if err := s.VMs.Update(ctx, it); err != nil {
			return err
		}
		afterKeyGone.Hit()
		return nil // the watch brings it back
	}
	if seen == nil || seen.Power != api.PowerDeleted {
		known, err := s.hostKnown(ctx, v.Host)
		if err != nil || known {
			return err // the host will report
		}
	}
	return s.remove(ctx, it)
}

func (s *Service) hostKnown(ctx context.Context, host string) (bool, error) {
	_, err := s.Hosts.Get(ctx, host)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (s *Service) remove(ctx context.Context, it store.Item[VM]) error {
	v := it.Value
	tx := s.DB.Txn()
	usage, err := s.Usages.Get(ctx, usageKey(v.Meta.ID.Subscription))
	if err != nil {
		return err
	}
	usage.Value.Free(v.quotaNeed())
	s.Usages.UpdateIn(tx, usage)
	if err := s.release(ctx, tx, &v); err != nil {
		return err
	}
	d, err := s.Disks.Store.Get(ctx, v.OSDisk.ID.Key())
	if err == nil {
		s.Disks.Store.DeleteIn(tx, d)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := s.leaveIn(ctx, tx, v.DataDisks, true); err != nil {
		return err
	}
	if v.Customer != nil {
		if err := s.EncryptionSets.LeaveIn(ctx, tx, v.Customer.Set, v.Meta.ID.String()); err != nil {
			return err
		}
	}
	for _, ref := range v.NICs {
		nic, err := s.Network.NICs.Get(ctx, ref.ID.Key())
		if errors.Is(err, store.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		if ref.Delete { // at most one, see the rules
			if err := s.Network.RemoveIn(ctx, tx, nic); err != nil {
				return err
			}
			continue
		}
		nic.Value.VM = ""
		s.Network.NICs.UpdateIn(tx, nic)
	}
	for _, drop := range []func() error{
		func() error { return drop(ctx, tx, s.Statuses, v.VMID) },
		func() error { return drop(ctx, tx, s.Journeys, v.VMID) },
	} {
		if err := drop(); err != nil {
			return err
		}
	}
	s.Identities.PutIn(tx, v.VMID, Identity{VM: it.ID, Gone: true})
	s.VMs.DeleteIn(tx, it)
	if err := s.Operations.FinishIn(ctx, tx, v.Operation, operations.Succeeded, nil); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	afterRemoved.Hit()
	return nil
}

func drop[T any](ctx context.Context, tx *store.Txn, st store.Store[T], id string) error {
	it, err := st.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	st.DeleteIn(tx, it)
	return nil
}

// Resources lists the VMs of a group.
func (s *Service) Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error) {
	return s.kind().Metas(ctx, sub, group)
}

// Clear begins to delete all VMs of a group.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	items, err := s.kind().All(ctx, sub, group)
	if err != nil {
		return err
	}
	for _, it := range items {
		if _, err := s.beginDelete(ctx, it.Value.Meta.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}
