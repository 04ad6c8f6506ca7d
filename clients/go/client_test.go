package turnkey_test

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	turnkey "example.com/turnkey/clients/go"
	turnkeyv1 "example.com/turnkey/clients/go/turnkey/v1"
)

// environment returns a variable that scripts/check-clients sets, or skips the test.
func environment(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skipf("%s is not set: run scripts/check-clients", name)
	}
	return value
}

func clientOf(t *testing.T, url string, options turnkey.Options) *turnkey.Client {
	t.Helper()
	client, err := turnkey.New(url, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// newClient returns a client that may make every call.
func newClient(t *testing.T) *turnkey.Client {
	t.Helper()
	return clientOf(t, environment(t, "TURNKEY_GRPC_URL"), turnkey.Options{Token: environment(t, "TURNKEY_TOKEN")})
}

// cutClient returns a client whose first response is lost.
func cutClient(t *testing.T, proxy string) *turnkey.Client {
	t.Helper()
	return clientOf(t, environment(t, proxy), turnkey.Options{Token: environment(t, "TURNKEY_TOKEN")})
}

func create(t *testing.T, client *turnkey.Client, slug string) *turnkeyv1.CreateFullyProvisionedResponse {
	t.Helper()
	request := &turnkeyv1.CreateFullyProvisionedRequest{Slug: slug, Name: "From Go"}
	response, err := client.Provisioning.CreateFullyProvisioned(context.Background(), request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func failure(t *testing.T, err error) *turnkey.Error {
	t.Helper()
	var result *turnkey.Error
	if !errors.As(err, &result) {
		t.Fatalf("%v is not a *turnkey.Error", err)
	}
	return result
}

func TestACreateReturnsTheTenantAndItsSecret(t *testing.T) {
	response := create(t, newClient(t), "go-created")
	if response.GetReplayed() || !strings.HasPrefix(response.GetSecretKey(), "sk_live_go_") || len(response.GetPackages()) != 3 {
		t.Fatalf("unexpected response for %s", response.GetTenant().GetId())
	}
}

func TestACreateWhoseResponseIsLostIsRepeatedAndReturnsTheSecret(t *testing.T) {
	response := create(t, cutClient(t, "TURNKEY_CUT_GRPC_URL_1"), "go-lost")
	if !response.GetReplayed() {
		t.Fatal("the response was not lost")
	}
	verified, err := newClient(t).Provisioning.VerifyApiKey(
		context.Background(), &turnkeyv1.VerifyApiKeyRequest{SecretKey: response.GetSecretKey()})
	if err != nil || verified.GetVerdict() != turnkeyv1.Verdict_VERDICT_VALID {
		t.Fatal(verified.GetVerdict(), err)
	}
}

func TestAnUpsertThatNamesNothingIsNotRepeated(t *testing.T) {
	tenantID := create(t, newClient(t), "go-not-repeated").GetTenant().GetId()
	request := &turnkeyv1.UpsertPackageRequest{TenantId: tenantID, Name: proto.String("Gold"), BasePrice: proto.Int64(1)}
	_, err := cutClient(t, "TURNKEY_CUT_GRPC_URL_2").Catalog.UpsertPackage(context.Background(), request)
	if failure(t, err).Code != codes.Unavailable {
		t.Fatal(err)
	}
	list, err := newClient(t).Catalog.ListPackages(context.Background(), &turnkeyv1.ListPackagesRequest{TenantId: tenantID})
	if err != nil || len(list.GetPackages()) != 4 {
		t.Fatal(len(list.GetPackages()), err)
	}
}

func TestASlugThatExistsHasAReason(t *testing.T) {
	client := newClient(t)
	create(t, client, "go-taken")
	_, err := client.Provisioning.CreateFullyProvisioned(
		context.Background(), &turnkeyv1.CreateFullyProvisionedRequest{Slug: "go-taken", Name: "Again"})
	if failure(t, err).Reason != turnkey.ReasonSlugTaken || status.Code(err) != codes.AlreadyExists {
		t.Fatal(err)
	}
}

func TestViolationsAreAList(t *testing.T) {
	_, err := newClient(t).Provisioning.CreateFullyProvisioned(
		context.Background(), &turnkeyv1.CreateFullyProvisionedRequest{Slug: "x"})
	var fields []string
	for _, violation := range failure(t, err).Violations {
		fields = append(fields, violation.Field+" "+violation.Reason)
	}
	if !slices.Equal(fields, []string{"slug TOO_SHORT", "name MISSING_FIELD"}) {
		t.Fatal(fields)
	}
}

func TestPagesAreListed(t *testing.T) {
	client := newClient(t)
	request := &turnkeyv1.ListPackagesRequest{TenantId: create(t, client, "go-pages").GetTenant().GetId(), PageSize: 2}
	var slugs []string
	for {
		page, err := client.Catalog.ListPackages(context.Background(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, listed := range page.GetPackages() {
			slugs = append(slugs, listed.GetSlug())
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	if !slices.Equal(slugs, []string{"basic-package", "standard-package", "premium-package"}) {
		t.Fatal(slugs)
	}
}

func TestATenantKeyOpensItsOwnCatalogOnly(t *testing.T) {
	own, other := create(t, newClient(t), "go-own"), create(t, newClient(t), "go-other")
	client := clientOf(t, environment(t, "TURNKEY_GRPC_URL"), turnkey.Options{Token: own.GetSecretKey()})
	listSegments := func(tenantID string) error {
		_, err := client.Catalog.ListSegments(context.Background(), &turnkeyv1.ListSegmentsRequest{TenantId: tenantID})
		return err
	}
	if err := listSegments(own.GetTenant().GetId()); err != nil {
		t.Fatal(err)
	}
	if err := listSegments(other.GetTenant().GetId()); failure(t, err).Reason != turnkey.ReasonPermissionDenied {
		t.Fatal(err)
	}
}

func TestAStreamFailsWithAReason(t *testing.T) {
	stream, err := newClient(t).Provisioning.CheckIntegrity(
		context.Background(), &turnkeyv1.CheckIntegrityRequest{TenantId: proto.String("x")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = stream.Recv(); failure(t, err).Reason != turnkey.ReasonInvalidRequest {
		t.Fatal(err)
	}
}

func TestACallIsEncrypted(t *testing.T) {
	certificate, err := os.ReadFile(environment(t, "TURNKEY_TLS_CA"))
	if err != nil {
		t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(certificate)
	options := turnkey.Options{Token: environment(t, "TURNKEY_TOKEN"), RootCAs: authorities}
	create(t, clientOf(t, environment(t, "TURNKEY_TLS_URL"), options), "go-encrypted")
}
