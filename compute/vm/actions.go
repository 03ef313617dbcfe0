package vm

import (
	"context"
	"errors"
	"net/http"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/store"
)

// Routes of virtual machines.
func (s *Service) Routes() []arm.Route {
	const one = "/subscriptions/{sub}/resourceGroups/{group}/providers/" + Type + "/{name}"
	post := func(name, action string, h arm.Handler) arm.Route {
		return arm.Route{Method: http.MethodPost, Pattern: one + "/" + name, Action: Type + "/" + action + "/action", Handle: h}
	}
	routes := append(s.kind().Routes(),
		arm.Route{Method: http.MethodPut, Pattern: one, Action: Type + "/write", Handle: s.put},
		arm.Route{Method: http.MethodPatch, Pattern: one, Action: Type + "/write", Handle: s.patch},
		arm.Route{Method: http.MethodDelete, Pattern: one, Action: Type + "/delete", Handle: s.delete},
		arm.Route{Method: http.MethodGet, Pattern: one + "/instanceView", Action: Type + "/instanceView/read", Handle: s.getInstanceView},
		arm.Route{Method: http.MethodGet, Pattern: one + "/journey", Action: Type + "/read", Handle: s.journey},
		arm.Route{Method: http.MethodGet, Pattern: one + "/console", Action: Type + "/retrieveBootDiagnosticsData/action", Handle: s.console},
		post("attest", "attest", s.attest),
		arm.Route{Method: http.MethodPost, Pattern: one + "/metadata", Action: Type + "/read", Handle: s.metadata},
		arm.Route{Method: http.MethodPost, Pattern: one + "/attachDetachDataDisks", Action: Type + "/attachDetachDataDisks/action", Handle: s.attachDetach},
		post("start", "start", s.power(start)),
		post("powerOff", "powerOff", s.power(powerOff)),
		post("deallocate", "deallocate", s.power(deallocate)),
		post("restart", "restart", s.power(restart)),
	)
	return append(routes, s.catalogRoutes()...)
}

// begin writes a change of what is wanted, with a new operation that takes the place of the one under way.
func (s *Service) begin(ctx context.Context, tx *store.Txn, it store.Item[VM]) (operations.Operation, error) {
	before := it.Value.Operation
	op := s.Operations.New(it.Value.Meta.ID.Subscription, it.Value.Meta.ID.String())
	it.Value.Operation, it.Value.Failure = op.ID, nil
	it.Value.Generation++
	it.Value.Meta.Etag = tracked.NewEtag()
	s.VMs.UpdateIn(tx, it)
	s.Operations.Store.CreateIn(tx, op.ID, op)
	if before != "" {
		if err := s.Operations.FinishIn(ctx, tx, before, operations.Canceled, arm.Errorf(http.StatusConflict, "OperationPreempted", "A later request for this VM took the place of this one.")); err != nil {
			return op, err
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return op, err
	}
	afterChange.Hit()
	return op, nil
}

// power makes a handler that changes what power state is wanted.
func (s *Service) power(change func(*VM, *arm.Request) error) arm.Handler {
	return func(ctx context.Context, r *arm.Request) (*arm.Response, error) {
		for {
			it, err := s.kind().Find(ctx, r.ID())
			if err != nil {
				return nil, err
			}
			v := &it.Value
			if v.Deleting {
				return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "VM '%s' is being deleted.", v.Meta.ID.Name)
			}
			if err := change(v, r); err != nil {
				return nil, err
			}
			v.Provisioning = updating
			tx := s.DB.Txn()
			if v.Power == api.PowerRunning && v.Released {
				if err := s.readyIn(ctx, tx, v); err != nil {
					return nil, err
				}
				if err := s.allocate(ctx, tx, v); err != nil {
					return nil, err
				}
			}
			op, err := s.begin(ctx, tx, it)
			if errors.Is(err, store.ErrConflict) {
				continue
			} else if err != nil {
				return nil, err
			}
			return &arm.Response{Status: http.StatusAccepted, Header: s.Operations.Header(op, r.Version)}, nil
		}
	}
}

func start(v *VM, _ *arm.Request) error {
	v.Power = api.PowerRunning
	return nil
}

func powerOff(v *VM, r *arm.Request) error {
	if v.Power == api.PowerDeallocated {
		return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "VM '%s' is deallocated.", v.Meta.ID.Name)
	}
	v.Power, v.SkipShutdown = api.PowerStopped, r.Query.Get("skipshutdown") == "true"
	return nil
}

func deallocate(v *VM, _ *arm.Request) error {
	v.Power, v.SkipShutdown = api.PowerDeallocated, false
	return nil
}

func restart(v *VM, _ *arm.Request) error {
	if v.Power != api.PowerRunning {
		return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "VM '%s' is not running.", v.Meta.ID.Name)
	}
	v.RestartCount++
	return nil
}

// allocate takes cores and memory again. The disk lies on the VM's host, so it is that host or none.
func (s *Service) allocate(ctx context.Context, tx *store.Txn, v *VM) error {
	_, hosts, err := s.candidates(ctx)
	if err != nil {
		return err
	}
	place, err := s.placement(ctx, v.Host)
	if err != nil {
		return err
	}
	why := "its host is gone"
	for _, c := range hosts {
		if c.Host.Name == v.Host {
			c.Placement = place.Value
			why = scheduler.Unfit(c, v.need())
		}
	}
	if why != "" {
		return arm.Errorf(http.StatusConflict, "AllocationFailed", "Allocation failed: the VM's disk lies on host %s: %s.", v.Host, why)
	}
	if place.Value.VMs == nil {
		place.Value.VMs = map[string]scheduler.Need{}
	}
	place.Value.VMs[v.VMID] = v.need()
	v.Released = false
	s.Placements.UpdateIn(tx, place)
	return nil
}

func (s *Service) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	op, err := s.beginDelete(ctx, r.ID())
	if errors.Is(err, store.ErrNotFound) {
		return arm.NoContent(), nil
	} else if err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusAccepted, Header: s.Operations.Header(op, r.Version)}, nil
}

// beginDelete marks a VM for deletion; asking again gives the same operation.
func (s *Service) beginDelete(ctx context.Context, id arm.ID) (operations.Operation, error) {
	for {
		it, err := s.VMs.Get(ctx, id.Key())
		if err != nil {
			return operations.Operation{}, err
		}
		if it.Value.Deleting {
			return operations.Operation{ID: it.Value.Operation, Subscription: id.Subscription}, nil
		}
		it.Value.Deleting, it.Value.Power, it.Value.Provisioning = true, api.PowerDeleted, deleting
		op, err := s.begin(ctx, s.DB.Txn(), it)
		if !errors.Is(err, store.ErrConflict) {
			return op, err
		}
	}
}

func (s *Service) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	return s.update(ctx, r, b, func(v *VM) {
		if b.Tags != nil {
			v.Meta.Tags = b.Tags
		}
	})
}

func (s *Service) getInstanceView(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.kind().Find(ctx, r.ID())
	if err != nil {
		return nil, err
	}
	view, err := s.instanceView(ctx, it.Value)
	if err != nil {
		return nil, err
	}
	return arm.OK(view), nil
}
