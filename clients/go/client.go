// Package turnkey calls Turnkey, the service that provisions the tenants of a booking platform.
//
// A [Client] repeats calls that failed, and never one whose repeat could change something twice; it returns errors as
// [*Error], with the reason to branch on. The messages and the stubs are in the package turnkeyv1.
package turnkey

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	turnkeyv1 "example.com/turnkey/clients/go/turnkey/v1"
)

// Options of a [Client]. The zero value calls without a credential.
type Options struct {
	// Token is a service token or a tenant's own secret key.
	Token string
	// RootCAs are the certificate authorities of the server's certificate. Nil means those of the system.
	RootCAs *x509.CertPool
	// Certificate authenticates the caller instead of Token.
	Certificate *tls.Certificate
	// Timeout bounds a call with all its attempts, unless the call's context has a deadline. 0 means 30 s.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt. 0 means 5 s.
	AttemptTimeout time.Duration
	// DialOptions are added to those of the client.
	DialOptions []grpc.DialOption
}

// Client has the stubs of both services. It is safe for concurrent use; use one for all calls.
type Client struct {
	Provisioning turnkeyv1.TenantProvisioningClient
	Catalog      turnkeyv1.PackageCatalogClient
	connection   *grpc.ClientConn
}

// New creates a client for a server such as https://turnkey.example.com:50051. With http the connection is plaintext. It
// connects at the first call, and again after each failure.
func New(serverURL string, options Options) (*Client, error) {
	parsed, err := url.Parse(serverURL)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	var transport credentials.TransportCredentials
	switch {
	case parsed.Host == "" || parsed.Path != "" && parsed.Path != "/":
		return nil, fmt.Errorf("server URL %q: need https://HOST:PORT or http://HOST:PORT", serverURL)
	case parsed.Scheme == "https":
		config := &tls.Config{RootCAs: options.RootCAs, MinVersion: tls.VersionTLS12}
		if options.Certificate != nil {
			config.Certificates = []tls.Certificate{*options.Certificate}
		}
		transport = credentials.NewTLS(config)
	case parsed.Scheme == "http":
		transport = insecure.NewCredentials()
	default:
		return nil, fmt.Errorf("server URL %q: the scheme is neither https nor http", serverURL)
	}
	retries := retrier{
		timeout:        orDefault(options.Timeout, 30*time.Second),
		attemptTimeout: orDefault(options.AttemptTimeout, 5*time.Second),
	}
	dialOptions := append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithChainUnaryInterceptor(retries.intercept),
		grpc.WithChainStreamInterceptor(typedStreamErrors),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		// gRPC's own delay between connections grows up to two minutes. The backoff of the retries is enough.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.5, MaxDelay: time.Second},
			MinConnectTimeout: retries.attemptTimeout,
		}),
	}, options.DialOptions...)
	if options.Token != "" {
		dialOptions = append(dialOptions, grpc.WithPerRPCCredentials(bearerToken{options.Token, parsed.Scheme == "https"}))
	}
	connection, err := grpc.NewClient(withPort(parsed), dialOptions...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Provisioning: turnkeyv1.NewTenantProvisioningClient(connection),
		Catalog:      turnkeyv1.NewPackageCatalogClient(connection),
		connection:   connection,
	}, nil
}

// Close closes the connections. Calls in flight fail.
func (client *Client) Close() error {
	return client.connection.Close()
}

func withPort(serverURL *url.URL) string {
	if serverURL.Port() != "" {
		return serverURL.Host
	}
	if serverURL.Scheme == "https" {
		return serverURL.Host + ":443"
	}
	return serverURL.Host + ":80"
}

func orDefault(value, fallback time.Duration) time.Duration {
	if value == 0 {
		return fallback
	}
	return value
}
