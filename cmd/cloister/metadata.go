package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

// instancePath is the document that is shown when no other is asked for.
const instancePath = "/metadata/instance?api-version=2021-12-13"

func newVMMetadata() *cobra.Command {
	cmd := &cobra.Command{
		Use: "metadata NAME", Short: "What a VM sees at 169.254.169.254, identity tokens excepted", Args: cobra.ExactArgs(1),
		Example: "  cloister vm metadata web\n  cloister vm metadata web --listen 127.0.0.1:8080",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := cmd.Flags().GetString("path")
			if err != nil {
				return err
			}
			listen, err := cmd.Flags().GetString("listen")
			if err != nil {
				return err
			}
			t, err := tenantOf(cmd)
			if err != nil {
				return err
			}
			if listen != "" {
				return serveMetadata(cmd, t, args[0], listen)
			}
			a, err := t.Metadata(cmd.Context(), args[0], path)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), string(a.Body))
			if a.Status != http.StatusOK {
				return fmt.Errorf("the metadata service answers %d", a.Status)
			}
			return nil
		},
	}
	cmd.Flags().String("path", instancePath, "path and query")
	cmd.Flags().String("listen", "", "serve it at this address instead, until Ctrl-C")
	return cmd
}

// serveMetadata lets a program on this machine see what the VM sees.
func serveMetadata(cmd *cobra.Command, t *tenant.Tenant, vm, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Metadata") == "" {
			http.Error(w, `{"error":"Bad request. GET with the header Metadata: true"}`, http.StatusBadRequest)
			return
		}
		a, err := t.Metadata(r.Context(), vm, r.URL.RequestURI())
		if err != nil {
			http.Error(w, explain(err), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", a.ContentType)
		w.WriteHeader(a.Status)
		_, _ = w.Write(a.Body) // a client that hung up needs no answer
	})}
	stop := context.AfterFunc(cmd.Context(), func() { _ = srv.Close() })
	defer stop()
	fmt.Fprintf(cmd.OutOrStdout(), "http://%s shows what %s sees at 169.254.169.254; Ctrl-C ends it\n", l.Addr(), vm)
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
