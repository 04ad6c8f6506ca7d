package turnkey

import "context"

// bearerToken sends a credential with each call. It does not print the token.
type bearerToken struct {
	token     string
	encrypted bool
}

func (bearer bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + bearer.token}, nil
}

func (bearer bearerToken) RequireTransportSecurity() bool { return bearer.encrypted }

func (bearer bearerToken) String() string { return "Bearer [redacted]" }

func (bearer bearerToken) GoString() string { return bearer.String() }
