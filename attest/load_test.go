package attest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

// endless is a body of zeros that never ends.
type endless struct{}

func (endless) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// stalled is a body that sends a little and then nothing until it is let go.
type stalled struct {
	sent    bool
	waiting func() // the little was taken
	let     <-chan struct{}
}

func (s *stalled) Read(b []byte) (int, error) {
	if !s.sent {
		s.sent = true
		return copy(b, "{\"report\":\""), nil
	}
	s.waiting()
	<-s.let
	return 0, io.ErrUnexpectedEOF
}

func (w *world) body(t testing.TB) []byte {
	t.Helper()
	in := w.report(t, w.chip, nil)
	enc := base64.RawURLEncoding
	wrapped, err := json.Marshal(client.WireReport{SnpReport: enc.EncodeToString(in.Report), VcekCertChain: enc.EncodeToString(in.ChainPEM)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(client.WireSevSnpVM{Report: enc.EncodeToString(wrapped), RuntimeData: &client.WireData{Data: enc.EncodeToString(in.RuntimeData), DataType: "JSON"}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// gauge reads one number of /metrics.
func (w *world) gauge(t testing.TB, name string) float64 {
	t.Helper()
	resp, err := w.http.Get(w.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

const attestPath = "/software/attest/SevSnpVm?api-version=2022-08-01"

// SVC-11: of a thousand connections, those that send without end are cut off, those that send nothing hold up nobody,
// and the others get their tokens.
func TestSVC11AThousandConnections(t *testing.T) {
	w := newWorld(t)
	good := w.body(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	let := make(chan struct{})
	var cut, done, waiting sync.WaitGroup
	var wrong atomic.Int32
	// A connection each: no client of the test shares one.
	post := func(body io.Reader) (int, error) {
		hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: w.http.Transport.(*http.Transport).TLSClientConfig}}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+attestPath, body)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := hc.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, nil
	}
	for range 500 {
		waiting.Add(1)
		var once sync.Once
		done.Go(func() {
			_, _ = post(io.MultiReader(&stalled{waiting: func() { once.Do(waiting.Done) }, let: let}))
		})
	}
	waiting.Wait()
	for range 400 {
		cut.Go(func() {
			// The service may close the connection before the client stops sending: then there is no status.
			if status, err := post(endless{}); err == nil && status != http.StatusBadRequest && status != http.StatusTooManyRequests {
				wrong.Add(1)
			}
		})
	}
	cut.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d bodies without end were not refused", n)
	}
	if held := w.gauge(t, "cloister_attest_buffered_bytes"); held > 128<<20 {
		t.Errorf("%.0f bytes of bodies in memory", held)
	}
	var honest sync.WaitGroup
	for range 100 {
		honest.Go(func() {
			if status, err := post(bytes.NewReader(good)); err != nil || status != http.StatusOK {
				t.Errorf("an honest request: %d, %v", status, err)
			}
		})
	}
	honest.Wait()
	close(let)
	done.Wait()
	stop()
	for held := w.gauge(t, "cloister_attest_buffered_bytes"); held != 0; held = w.gauge(t, "cloister_attest_buffered_bytes") {
		runtime.Gosched() // handlers end on their own time
	}
	for _, c := range []struct {
		name string
		body io.Reader
		size int64
	}{{"a length that is announced", endless{}, request.MaxBody + 1}, {"a length that is not", endless{}, -1}} {
		r := httptest.NewRequest(http.MethodPost, attestPath, c.body)
		r.ContentLength = c.size
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		if rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), "at most") {
			t.Errorf("SVC-11 %s: %d %s", c.name, rec.Code, rec.Body)
		}
	}
}

func benchWorld(b *testing.B) *world {
	b.Helper()
	w := &world{dir: b.TempDir(), chip: softwareChip(b), now: sevsnptest.Now}
	s, err := Open(config(b, w.dir, w.chip), func() time.Time { return w.now }, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s.Handler)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	server.StartTLS()
	b.Cleanup(func() { server.Close(); s.Close() })
	w.url, w.http = server.URL, server.Client()
	w.http.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	return w
}

// heap is what the process holds after a collection, in MB.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// BenchmarkHTTP is a token of a SEV-SNP report over TLS from end to end, on all cores; p50 and p99 are of one request.
func BenchmarkHTTP(b *testing.B) {
	w := benchWorld(b)
	body := w.body(b)
	ask := func() error {
		resp, err := w.http.Post(w.url+attestPath, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	var warm errgroup.Group
	warm.SetLimit(8 * runtime.GOMAXPROCS(0)) // as many connections as afterwards
	for range max(b.N/10, 200) {
		warm.Go(ask)
	}
	if err := warm.Wait(); err != nil {
		b.Fatal(err)
	}
	// Made before memory is looked at: it is the benchmark's and not the service's.
	took := make([]time.Duration, 0, b.N)
	held := heap()
	var mu sync.Mutex
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var mine []time.Duration
		for pb.Next() {
			begin := time.Now()
			if err := ask(); err != nil {
				b.Error(err)
				return
			}
			mine = append(mine, time.Since(begin))
		}
		mu.Lock()
		took = append(took, mine...)
		mu.Unlock()
	})
	b.StopTimer()
	b.ReportMetric(held, "heap-MB-begin")
	b.ReportMetric(heap(), "heap-MB-end")
	if slices.Sort(took); len(took) > 0 {
		b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "requests/s")
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	}
}

// BenchmarkVerifyAndSign is what cannot be avoided of the same token: the appraisal and the RS256 signature, on all
// cores, without HTTP, TLS, policy and log.
func BenchmarkVerifyAndSign(b *testing.B) {
	w := benchWorld(b)
	in, err := request.ParseSevSnpVM(w.body(b))
	if err != nil {
		b.Fatal(err)
	}
	roots, err := (&Software{Roots: []string{filepath.Join(w.dir, "root.pem")}}).roots()
	if err != nil {
		b.Fatal(err)
	}
	v := appraise.New(appraise.Software(roots))
	i, err := issuer.Open(filepath.Join(w.dir, "state"), "software", softwareURL, issuer.Rotation{}, w.now)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			got, err := v.SevSnpVM(context.Background(), in, w.now)
			if err != nil {
				b.Error(err)
				return
			}
			if err := i.Stamp(got.Claims(), w.now, issuer.TokenLife); err != nil {
				b.Error(err)
				return
			}
			if _, err := i.Sign(got.Claims()); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
