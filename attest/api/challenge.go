package api

import (
	"net/http"
	"time"

	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
)

// issueChallenge hands out a nonce. Anybody may ask: it opens nothing by itself.
func (p *Provider) issueChallenge(s *Server, w http.ResponseWriter, r *http.Request, body []byte) error {
	if err := checkOurVersion(r); err != nil {
		return err
	}
	if len(body) > 0 {
		return evidence.Refuse(evidence.CodeParse, "body", "something", "nothing")
	}
	c, err := p.Challenges.Issue(r.Context(), s.now())
	if err != nil {
		return err
	}
	return answer(w, client.WireChallenge{Nonce: c.Nonce, Expires: c.Expires.Format(time.RFC3339)})
}

// redeem takes the nonce that a request names, if it names one: the evidence must carry it, and nobody may have
// redeemed it before. From then on the token and the policy know it.
func (p *Provider) redeem(s *Server, r *http.Request, got *appraise.Result) error {
	named := r.Header.Values(client.ChallengeHeader)
	switch {
	case len(named) == 0:
		return nil
	case len(named) > 1:
		return evidence.Refuse(evidence.CodeParse, client.ChallengeHeader, "several", "one")
	}
	if err := got.CheckCarries(named[0]); err != nil {
		return err
	}
	if err := p.Challenges.Redeem(r.Context(), named[0], s.now()); err != nil {
		return err
	}
	got.MarkFresh(named[0])
	return nil
}
