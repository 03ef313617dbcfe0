package host

import "github.com/prometheus/client_golang/prometheus"

var vmsByPhase = prometheus.NewDesc("cloister_host_vms", "VMs on this host, by phase.", []string{"phase"}, nil)

// collector counts the VMs when it is asked.
type collector struct{ agent *Agent }

// Collector offers the agent's numbers.
func (a *Agent) Collector() prometheus.Collector { return collector{a} }

func (collector) Describe(c chan<- *prometheus.Desc) { c <- vmsByPhase }

func (c collector) Collect(out chan<- prometheus.Metric) {
	c.agent.mu.Lock()
	machines := make([]*machine, 0, len(c.agent.machines))
	for _, m := range c.agent.machines {
		machines = append(machines, m)
	}
	c.agent.mu.Unlock()
	counts := map[string]int{}
	for _, m := range machines {
		counts[m.status().Phase]++
	}
	for phase, n := range counts {
		out <- prometheus.MustNewConstMetric(vmsByPhase, prometheus.GaugeValue, float64(n), phase)
	}
}
