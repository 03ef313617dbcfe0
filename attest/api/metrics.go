package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are those of one server, in a registry of their own.
type metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	tokens   *prometheus.CounterVec
}

func newMetrics(a *admission) *metrics {
	reg := prometheus.NewRegistry()
	m := &metrics{
		handler:  promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cloister_attest_requests_total", Help: "Requests by route and status."}, []string{"route", "status"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cloister_attest_request_seconds", Help: "Time to answer, by route."}, []string{"route"}),
		tokens:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cloister_attest_tokens_total", Help: "Tokens and certificates by kind, root and result (issued, or the code of the refusal)."}, []string{"kind", "root", "result"}),
	}
	gauge := func(name, help string, v func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, v)
	}
	reg.MustRegister(m.requests, m.seconds, m.tokens,
		gauge("cloister_attest_buffered_bytes", "Bytes of request bodies in memory.", func() float64 { return float64(a.buffered.Load()) }),
		gauge("cloister_attest_waiting_requests", "Requests that wait for their turn.", func() float64 { return float64(a.waiting.Load()) }),
		gauge("cloister_attest_busy_requests", "Requests that are judged.", func() float64 { return float64(len(a.busy)) }))
	return m
}

func (m *metrics) observe(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}
