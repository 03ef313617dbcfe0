// Package event writes the steps of a VM's journey that the guest goes through. They inform people; nobody decides by them.
package event

import (
	"encoding/json"
	"time"
)

// Prefix begins an event's line on the serial console.
const Prefix = "CLOISTER-EVENT "

// The states of a step.
const (
	Started = "started"
	Done    = "done"
	Failed  = "failed"
)

// Event is one step.
type Event struct {
	Time   time.Time         `json:"time"` // by the guest's clock, which the host sets
	Step   string            `json:"step"`
	State  string            `json:"state"`
	Detail map[string]string `json:"detail,omitempty"`
}

// Line is the event as one line of the serial console, with a leading line break: firmware and kernel leave half lines behind.
func (e Event) Line() []byte {
	text, err := json.Marshal(e)
	if err != nil { // only a year outside 0 to 9999 can do it
		e.Time = time.Unix(0, 0).UTC()
		text, _ = json.Marshal(e)
	}
	return append(append([]byte("\n"+Prefix), text...), '\n')
}
