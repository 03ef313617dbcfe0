package deployment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/template"
	"cloister.dev/cloister/store"
)

const (
	workers    = 4         // deployments that one server goes on with at once
	parallel   = 8         // resources of one deployment that are asked for at once
	maxWeight  = 512 << 20 // bytes of the plans that one server holds
	maxTries   = 5         // of a resource whose call ends in a failure of this server, not in a refusal
	pollEvery  = 250 * time.Millisecond
	ownerTTL   = 10 // seconds that a server may be silent before others take its deployments
	enlistEach = 2 * time.Second
)

// enlist tells other servers that this one runs.
func (s *Service) enlist(ctx context.Context) error {
	if err := s.Owners.PutLeased(ctx, s.name, s.Now().UTC(), ownerTTL); err != nil {
		return err
	}
	s.listed.Store(true)
	return nil
}

// Run goes on with deployments until the context is done. Any number of servers may run it at once: each deployment has
// one owner, and another takes it when the owner's lease has ended.
func (s *Service) Run(ctx context.Context) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 10*time.Second))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			if err := s.enlist(ctx); err != nil && ctx.Err() == nil {
				s.Log.Error("telling that this server runs", "error", err)
			}
			select {
			case <-time.After(enlistEach):
			case <-ctx.Done():
				s.delist(context.WithoutCancel(ctx))
				return ctx.Err()
			}
		}
	})
	group.Go(func() error {
		return s.Store.Follow(ctx, "", func(items []store.Item[Deployment]) error {
			for _, it := range items {
				queue.Add(it.ID)
			}
			return nil
		}, func(e store.Event[Deployment]) error {
			queue.Add(e.Item.ID)
			return nil
		})
	})
	group.Go(func() error {
		<-ctx.Done()
		queue.ShutDown()
		return ctx.Err()
	})
	for range workers {
		group.Go(func() error {
			for {
				key, stop := queue.Get()
				if stop {
					return ctx.Err()
				}
				again, err := s.advance(ctx, key)
				switch {
				case err != nil && ctx.Err() == nil:
					if !errors.Is(err, store.ErrConflict) {
						s.Log.Error("deploying", "deployment", key, "error", err)
					}
					queue.AddRateLimited(key)
				case again > 0:
					queue.Forget(key)
					queue.AddAfter(key, again)
				default:
					queue.Forget(key)
				}
				queue.Done(key)
			}
		})
	}
	return group.Wait()
}

// delist hands deployments over at once, where a crash would let the lease end first.
func (s *Service) delist(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	it, err := s.Owners.Get(ctx, s.name)
	if err == nil {
		err = s.Owners.Delete(ctx, it)
	}
	if err != nil {
		s.Log.Debug("telling that this server ends", "error", err) // the lease ends by itself
	}
	s.listed.Store(false)
}

// keep holds a deployment in memory while it runs, unless there is too much of that already.
func (s *Service) keep(d Deployment, l *live) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.weight+l.plan.Weight() > maxWeight && s.weight > 0 {
		return arm.Errorf(http.StatusTooManyRequests, "TooManyRequests", "Too many deployments are under way. Try again when some have ended.")
	}
	s.weight += l.plan.Weight()
	s.live[d.Run] = l
	return nil
}

func (s *Service) drop(d Deployment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.live[d.Run]; l != nil {
		s.weight -= l.plan.Weight()
		delete(s.live, d.Run)
	}
}

// alive gives what this server has in memory of a deployment, or makes it anew without the secrets.
func (s *Service) alive(ctx context.Context, d Deployment) (*live, error) {
	s.mu.Lock()
	l := s.live[d.Run]
	s.mu.Unlock()
	if l != nil {
		return l, nil
	}
	src, err := s.Sources.Get(ctx, d.ID.Key())
	if errors.Is(err, store.ErrNotFound) {
		return nil, lost{err}
	} else if err != nil {
		return nil, err
	}
	plan, err := s.again(d, src.Value)
	if err != nil {
		return nil, lost{err}
	}
	l = &live{plan: plan}
	return l, s.keep(d, l)
}

// lost is why a deployment can never go on.
type lost struct{ error }

// again expands what was stored, and compares it with what was begun.
func (s *Service) again(d Deployment, src Source) (*template.Plan, error) {
	t, err := template.Parse(src.Template)
	if err != nil {
		return nil, err
	}
	v, err := template.Read(src.Parameters)
	if err != nil {
		return nil, err
	}
	values, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("stored parameters are no object")
	}
	plan, err := template.Expand(t, template.Inputs{Parameters: values, Withheld: true, Scope: s.scope(d.ID, src)})
	if err != nil {
		return nil, err
	}
	if len(plan.Resources) != len(d.Steps) || slices.ContainsFunc(d.Steps, func(st Step) bool {
		return !slices.ContainsFunc(plan.Resources, func(r *template.Resource) bool { return r.ID == st.ID })
	}) {
		return nil, errors.New("the stored template gives other resources than before")
	}
	return plan, nil
}

// advance does what can be done now, and says when to look again; zero: when something changes.
func (s *Service) advance(ctx context.Context, key string) (time.Duration, error) {
	it, err := s.Store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	if it.Value.over() {
		s.drop(it.Value)
		return 0, nil
	}
	if it.Value.Owner != s.name {
		if _, err := s.Owners.Get(ctx, it.Value.Owner); err == nil {
			return enlistEach, nil
		} else if !errors.Is(err, store.ErrNotFound) {
			return 0, err
		}
		return 0, s.take(ctx, it) // the write brings it back
	}
	l, err := s.alive(ctx, it.Value)
	switch e := arm.AsError(err); {
	case e != nil && e.Status == http.StatusTooManyRequests:
		return enlistEach, nil // when others have ended
	case errors.As(err, new(lost)):
		s.Log.Error("a deployment can't go on", "deployment", key, "error", err)
		return 0, s.finish(ctx, it, failed, operations.Failed, arm.Errorf(http.StatusConflict, "DeploymentFailed", "The deployment can't go on after a restart of the control plane. Deploy again."))
	case err != nil:
		return 0, err
	}
	changed, err := s.poll(ctx, &it.Value, l)
	if err != nil {
		return 0, err
	}
	ready := it.Value.ready()
	if len(ready) == 0 && len(it.Value.polled()) == 0 {
		return 0, s.conclude(ctx, it, l)
	}
	if len(ready) == 0 {
		if changed {
			return pollEvery, s.write(ctx, it)
		}
		return pollEvery, nil
	}
	return s.begin(ctx, it, l, ready)
}

// take makes this server the owner. Steps that were asked for, but whose answer nobody wrote down, are asked for again.
func (s *Service) take(ctx context.Context, it store.Item[Deployment]) error {
	it.Value.Owner = s.name
	for i := range it.Value.Steps {
		if st := &it.Value.Steps[i]; st.State == running && st.Polled == "" {
			st.State = pending
		}
	}
	return s.Store.Update(ctx, it)
}

func (s *Service) write(ctx context.Context, it store.Item[Deployment]) error {
	if err := s.Store.Update(ctx, it); err != nil {
		return err
	}
	afterStep.Hit()
	return nil
}

// begin asks for the resources that are ready, and writes what came.
func (s *Service) begin(ctx context.Context, it store.Item[Deployment], l *live, ready []int) (time.Duration, error) {
	d := &it.Value
	bodies := map[int][]byte{}
	for _, i := range ready {
		st := &d.Steps[i]
		st.State, st.Start = running, s.Now().UTC()
		body, err := s.body(ctx, d, l, i)
		if err != nil {
			s.fail(st, l, err)
			continue
		}
		bodies[i] = body
	}
	if err := s.Store.Update(ctx, it); err != nil {
		return 0, err
	}
	afterBegun.Hit()
	it, err := s.Store.Get(ctx, it.ID)
	if err != nil || it.Value.Run != d.Run || it.Value.over() || it.Value.Owner != s.name {
		return 0, err // canceled or replaced meanwhile: the event brings it back
	}
	d = &it.Value
	steps := make([]Step, len(d.Steps))
	group := errgroup.Group{}
	group.SetLimit(parallel)
	for i, body := range bodies {
		steps[i] = d.Steps[i]
		group.Go(func() error {
			s.ask(ctx, d, &steps[i], l, body)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, ctx.Err() // an answer that was cut off says nothing
	}
	retry := time.Duration(0)
	for i := range bodies {
		d.Steps[i] = steps[i]
		if steps[i].State == pending || steps[i].Polled != "" {
			retry = pollEvery
		}
	}
	return retry, s.write(ctx, it)
}

// body evaluates what is sent, with the resources it refers to as they are now.
func (s *Service) body(ctx context.Context, d *Deployment, l *live, i int) ([]byte, *arm.Error) {
	at := slices.IndexFunc(l.plan.Resources, func(r *template.Resource) bool { return r.ID == d.Steps[i].ID && r.Enabled })
	if at < 0 {
		return nil, arm.Errorf(http.StatusConflict, "InvalidTemplate", "The template no longer has this resource.")
	}
	var failure *arm.Error
	body, withheld, err := l.plan.Body(at, s.reader(ctx, d, &failure))
	switch {
	case failure != nil:
		return nil, failure
	case err != nil:
		return nil, asTemplate(err)
	case withheld:
		return nil, arm.Errorf(http.StatusConflict, "SecureParameterLost", "The control plane restarted, and values of secure parameters are not stored. Deploy again.")
	}
	return template.JSON(body), nil
}

// asTemplate is what evaluating says, in Resource Manager's form.
func asTemplate(err error) *arm.Error {
	if e := arm.AsError(invalidTemplate(err)); e != nil {
		return e
	}
	return arm.Errorf(http.StatusBadRequest, "InvalidTemplate", "%s", err)
}

// reader reads resources for reference(), as the caller could. Why it failed is left in failure.
func (s *Service) reader(ctx context.Context, d *Deployment, failure **arm.Error) template.Reader {
	return func(id, version string) (map[string]any, error) {
		resp, e := s.Router.Do(ctx, &d.Principal, http.MethodGet, id, version, nil)
		if e != nil {
			*failure = e
			return nil, e
		}
		v, err := plain(resp)
		if err != nil {
			return nil, err
		}
		obj, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s is no object", id)
		}
		return obj, nil
	}
}

// plain is an answer's body as values of the language.
func plain(resp *arm.Response) (any, error) {
	raw := resp.Raw
	if raw == nil {
		var err error
		if raw, err = json.Marshal(resp.Body); err != nil {
			return nil, err
		}
	}
	return template.Read(raw)
}

// ask makes one PUT and notes what came.
func (s *Service) ask(ctx context.Context, d *Deployment, st *Step, l *live, body []byte) {
	resp, e := s.Router.Do(ctx, &d.Principal, http.MethodPut, st.ID, st.Version, body)
	switch {
	case e != nil && (e.Code == arm.AnotherOperation || e.Status == http.StatusTooManyRequests):
		st.State = pending // it passes
		return
	case e != nil && e.Status >= http.StatusInternalServerError && st.Tries < maxTries:
		st.State = pending
		st.Tries++
		return
	case e != nil:
		s.fail(st, l, e)
		return
	}
	st.Status = resp.Status
	if u := resp.Header.Get("Azure-Asyncoperation"); u != "" {
		if parsed, err := url.Parse(u); err == nil {
			st.Polled = path.Base(parsed.Path)
			return
		}
	}
	s.settle(st, l, resp)
}

// settle reads a resource's provisioning state.
func (s *Service) settle(st *Step, l *live, resp *arm.Response) {
	state := succeeded
	if v, err := plain(resp); err == nil {
		if obj, ok := v.(map[string]any); ok {
			if p, ok := obj["properties"].(map[string]any); ok {
				if word, ok := p["provisioningState"].(string); ok {
					state = word
				}
			}
		}
	}
	switch {
	case strings.EqualFold(state, succeeded):
		s.done(st)
	case strings.EqualFold(state, failed), strings.EqualFold(state, canceled):
		s.fail(st, l, arm.Errorf(http.StatusConflict, "ResourceDeploymentFailure", "The resource operation completed with terminal provisioning state '%s'.", state))
	default:
		st.Polled = byResource
	}
}

func (s *Service) done(st *Step) {
	st.State, st.End, st.Polled, st.Error = succeeded, s.Now().UTC(), "", nil
}

// fail notes why a step failed, without what comes from secure parameters.
func (s *Service) fail(st *Step, l *live, e *arm.Error) {
	detail := tell(e.Detail(), l.plan)
	if detail.Target == "" {
		detail.Target = st.ID
	}
	st.State, st.End, st.Polled, st.Status, st.Error = failed, s.Now().UTC(), "", e.Status, &detail
}

// tell is an error without what comes from secure parameters.
func tell(d arm.Detail, p *template.Plan) arm.Detail {
	secrets, ok := p.Secrets()
	if !ok {
		return arm.Detail{Code: d.Code, Message: "The reason is not told, since it can't be told without the many values of secure parameters."}
	}
	return redact(d, secrets)
}

func redact(d arm.Detail, secrets []string) arm.Detail {
	d.Message, d.Target = template.Redact(d.Message, secrets), template.Redact(d.Target, secrets)
	var details []arm.Detail
	for _, inner := range d.Details {
		details = append(details, redact(inner, secrets))
	}
	d.Details = details
	return d
}

// poll looks at the resources that are being made.
func (s *Service) poll(ctx context.Context, d *Deployment, l *live) (changed bool, err error) {
	for _, i := range d.polled() {
		st := &d.Steps[i]
		before := st.State
		switch st.Polled {
		case "":
			st.State = pending // this server's own PUT whose answer was not written: ask again
		case byResource:
			resp, e := s.Router.Do(ctx, &d.Principal, http.MethodGet, st.ID, st.Version, nil)
			if e != nil {
				s.fail(st, l, e)
			} else {
				s.settle(st, l, resp)
			}
		default:
			op, err := s.Operations.Store.Get(ctx, st.Polled)
			switch {
			case errors.Is(err, store.ErrNotFound):
				st.Polled = byResource
				changed = true
			case err != nil:
				return changed, err
			case op.Value.Status == operations.Succeeded:
				s.done(st)
			case op.Value.Status != operations.InProgress:
				e := op.Value.Error
				if e == nil {
					e = arm.Errorf(http.StatusConflict, "ResourceDeploymentFailure", "The resource operation completed with terminal provisioning state '%s'.", op.Value.Status)
				}
				copied := *e
				copied.Status = http.StatusConflict
				s.fail(st, l, &copied)
			}
		}
		changed = changed || st.State != before
	}
	return changed, nil
}

// conclude ends a deployment in which nothing is left to do.
func (s *Service) conclude(ctx context.Context, it store.Item[Deployment], l *live) error {
	if failure := it.Value.outcome(); failure != nil {
		return s.finish(ctx, it, failed, operations.Failed, failure)
	}
	var failure *arm.Error
	outputs, err := l.plan.Outputs(s.reader(ctx, &it.Value, &failure))
	if err != nil {
		detail := asTemplate(err).Detail()
		if failure != nil {
			detail = failure.Detail()
		}
		e := arm.Errorf(http.StatusConflict, "DeploymentFailed", "The resources are there, but the template's outputs can't be evaluated.")
		e.Details = []arm.Detail{tell(detail, l.plan)}
		return s.finish(ctx, it, failed, operations.Failed, e)
	}
	it.Value.Outputs = outputs
	return s.finish(ctx, it, succeeded, operations.Succeeded, nil)
}
