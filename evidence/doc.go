// Package evidence holds what every kind of evidence shares: expectations, checks, verdicts and refusals.
//
// A verifier works in three steps, each in a place of its own. Bytes become a typed value (parse).
// The typed value becomes an authentic one when its signatures end at a root that the relying party
// named (authenticate). An authentic value becomes an accepted one when each claim meets what the
// relying party expects (appraise). No step answers for another.
//
// Nothing below this folder does I/O, reads a clock or keeps globals: time, roots and collateral are
// arguments.
package evidence
