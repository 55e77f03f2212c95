package otlp

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
)

// Retries stay within the SDK's default timeout of an export (10 s), so that a backend that is away is known to be away soon.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = 5 * time.Second
	retryUntil = 10 * time.Second
)

// SettingError is an OTEL_* variable that cannot be used as it is.
type SettingError struct{ Name, Value, Problem string }

func (e *SettingError) Error() string { return fmt.Sprintf("%s=%q: %s", e.Name, e.Value, e.Problem) }

// newClient chooses the protocol as OpenTelemetry's environment says; http/protobuf where it says nothing, as the specification
// has it. Every other OTEL_EXPORTER_OTLP_* variable is read by the SDK.
func newClient() (client otlptrace.Client, endpoint string, err error) {
	name, protocol := setting("PROTOCOL")
	endpointName, endpoint := setting("ENDPOINT")
	if err := checkEndpoint(endpointName, endpoint); err != nil {
		return nil, "", err
	}
	switch protocol {
	case "", "http/protobuf", "http/json":
		options := []otlptracehttp.Option{otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: retryFirst, MaxInterval: retryMost, MaxElapsedTime: retryUntil,
		})}
		if endpoint == "" { // the specification's default is http, the SDK's https
			endpoint, options = "http://localhost:4318", append(options, otlptracehttp.WithInsecure())
		}
		client = otlptracehttp.NewClient(options...)
	case "grpc":
		options := []otlptracegrpc.Option{otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: retryFirst, MaxInterval: retryMost, MaxElapsedTime: retryUntil,
		})}
		if endpoint == "" {
			endpoint, options = "http://localhost:4317", append(options, otlptracegrpc.WithInsecure())
		}
		client = otlptracegrpc.NewClient(options...)
	default:
		return nil, "", &SettingError{name, protocol, "unknown protocol: use http/protobuf, http/json or grpc"}
	}
	return client, endpoint, nil
}

// setting reads a variable of the traces signal, or else of all signals.
func setting(name string) (full, value string) {
	full = "OTEL_EXPORTER_OTLP_TRACES_" + name
	if v := strings.TrimSpace(os.Getenv(full)); v != "" {
		return full, v
	}
	full = "OTEL_EXPORTER_OTLP_" + name
	return full, strings.TrimSpace(os.Getenv(full))
}

// checkEndpoint refuses what the SDK would pass over in favour of its default.
func checkEndpoint(name, endpoint string) error {
	if endpoint == "" {
		return nil
	}
	if !strings.Contains(endpoint, "://") && !strings.HasPrefix(endpoint, "unix:") {
		return &SettingError{name, endpoint, "no scheme: write http://" + endpoint + ", or https:// for TLS"}
	}
	if _, err := url.Parse(endpoint); err != nil {
		return &SettingError{name, endpoint, "not a URL: " + err.Error()}
	}
	return nil
}

// newSDKExporter makes the SDK's exporter. It connects when it first sends.
func newSDKExporter(ctx context.Context) (*otlptrace.Exporter, string, error) {
	client, endpoint, err := newClient()
	if err != nil {
		return nil, "", err
	}
	e, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, "", fmt.Errorf("start otlp exporter for %s: %w", endpoint, err)
	}
	return e, endpoint, nil
}
