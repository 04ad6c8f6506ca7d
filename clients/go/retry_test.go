package turnkey

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	turnkeyv1 "example.com/turnkey/clients/go/turnkey/v1"
)

func TestCallsAreRepeatableByTheContract(t *testing.T) {
	const provisioning, catalog = "/turnkey.v1.TenantProvisioning/", "/turnkey.v1.PackageCatalog/"
	slug := proto.String("gold")
	for _, test := range []struct {
		method  string
		request proto.Message
		want    bool
	}{
		{provisioning + "GetTenant", &turnkeyv1.GetTenantRequest{}, true},
		{provisioning + "SuspendTenant", &turnkeyv1.SuspendTenantRequest{}, true},
		{provisioning + "VerifyPassword", &turnkeyv1.VerifyPasswordRequest{}, true},
		{provisioning + "ChangePassword", &turnkeyv1.ChangePasswordRequest{}, false},
		{provisioning + "PurgeTenant", &turnkeyv1.PurgeTenantRequest{}, false},
		{provisioning + "RepairTenant", &turnkeyv1.RepairTenantRequest{}, false},
		{provisioning + "RotateApiKey", &turnkeyv1.RotateApiKeyRequest{}, true},
		{provisioning + "Unknown", &turnkeyv1.GetTenantRequest{}, false},
		{provisioning + "BatchCreateFullyProvisioned", &turnkeyv1.BatchCreateFullyProvisionedRequest{
			Requests: []*turnkeyv1.CreateFullyProvisionedRequest{{}, {}},
		}, true},
		{catalog + "UpsertPackage", &turnkeyv1.UpsertPackageRequest{Slug: slug}, true},
		{catalog + "UpsertPackage", &turnkeyv1.UpsertPackageRequest{Slug: proto.String("")}, false},
		{catalog + "UpsertSegment", &turnkeyv1.UpsertSegmentRequest{SegmentId: proto.String("1")}, true},
		{catalog + "UpsertPackage", &turnkeyv1.UpsertPackageRequest{SegmentId: proto.String("1")}, false},
		{catalog + "BatchUpsertPackages", &turnkeyv1.BatchUpsertPackagesRequest{
			Packages: []*turnkeyv1.PackageUpsert{{Slug: slug}, {}},
		}, false},
		{catalog + "DeletePackage", &turnkeyv1.DeletePackageRequest{}, false},
	} {
		if got := isRepeatable(test.method, withRequestIDs(test.request)); got != test.want {
			t.Errorf("%s is repeatable: %v", test.method, got)
		}
	}
}

func TestRequestIDsAreAddedToACopy(t *testing.T) {
	own := "5f0f0d0e-5a52-4ba5-8cb7-7a3ff2d24ef1"
	request := &turnkeyv1.BatchCreateFullyProvisionedRequest{
		Requests: []*turnkeyv1.CreateFullyProvisionedRequest{{RequestId: &own}, {}},
	}
	sent := withRequestIDs(request).(*turnkeyv1.BatchCreateFullyProvisionedRequest).GetRequests()
	added, err := uuid.Parse(sent[1].GetRequestId())
	if sent[0].GetRequestId() != own || err != nil || added.Version() != 4 {
		t.Fatal(sent[0].GetRequestId(), sent[1].GetRequestId())
	}
	if request.GetRequests()[1].RequestId != nil {
		t.Fatal("the request of the caller has changed")
	}
}

// attemptsUntil calls GetTenant with a server that fails with the given status, and returns how often it was called.
func attemptsUntil(failure *status.Status, trailer metadata.MD, timeout time.Duration) (attempts int, err error) {
	invoker := func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, options ...grpc.CallOption) error {
		attempts++
		for _, option := range options {
			if option, ok := option.(grpc.TrailerCallOption); ok {
				*option.TrailerAddr = trailer
			}
		}
		if attempts == 3 {
			return nil
		}
		return failure.Err()
	}
	retries := retrier{timeout: timeout, attemptTimeout: time.Second}
	request := &turnkeyv1.GetTenantRequest{}
	err = retries.intercept(context.Background(), "/turnkey.v1.TenantProvisioning/GetTenant", request, nil, nil, invoker)
	return attempts, err
}

func TestOnlyTransientErrorsAreRepeated(t *testing.T) {
	withReason := func(code codes.Code, reason Reason) *status.Status {
		result, _ := status.New(code, "").WithDetails(&errdetails.ErrorInfo{Domain: "turnkey", Reason: string(reason)})
		return result
	}
	for _, test := range []struct {
		failure *status.Status
		want    int
	}{
		{status.New(codes.Unavailable, ""), 3},
		{status.New(codes.DeadlineExceeded, ""), 3},
		{status.New(codes.Unknown, ""), 3},
		{withReason(codes.Aborted, ReasonConflict), 3},
		{withReason(codes.Aborted, ReasonETagMismatch), 1},
		{withReason(codes.ResourceExhausted, ReasonOverloaded), 3},
		{withReason(codes.ResourceExhausted, ReasonTooManyAttempts), 1},
		{status.New(codes.Internal, ""), 1},
	} {
		if attempts, _ := attemptsUntil(test.failure, nil, time.Minute); attempts != test.want {
			t.Errorf("%v: %d attempts", test.failure, attempts)
		}
	}
}

func TestAnAttemptThatIsTooSlowIsRepeated(t *testing.T) {
	attempts := 0
	invoker := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		if attempts++; attempts == 2 {
			return nil
		}
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	retries := retrier{timeout: time.Minute, attemptTimeout: time.Millisecond}
	request := &turnkeyv1.GetTenantRequest{}
	err := retries.intercept(context.Background(), "/turnkey.v1.TenantProvisioning/GetTenant", request, nil, nil, invoker)
	if attempts != 2 || err != nil {
		t.Fatal(attempts, err)
	}
}

func TestTheDelayOfTheServerIsAMinimum(t *testing.T) {
	unavailable, _ := status.New(codes.Unavailable, "").WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Hour)})
	attempts, err := attemptsUntil(unavailable, nil, time.Minute)
	var failure *Error
	if attempts != 1 || !errors.As(err, &failure) || failure.RetryDelay != time.Hour {
		t.Fatal(attempts, err)
	}
	if attempts, _ = attemptsUntil(status.New(codes.Unavailable, ""), metadata.Pairs("grpc-retry-pushback-ms", "3600000"),
		time.Minute); attempts != 1 {
		t.Fatal(attempts)
	}
	if attempts, _ = attemptsUntil(status.New(codes.Unavailable, ""), metadata.Pairs("grpc-retry-pushback-ms", "-1"),
		time.Minute); attempts != 1 {
		t.Fatal(attempts)
	}
}
