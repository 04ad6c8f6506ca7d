package turnkey

import (
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// withRequestIDs returns a copy of a request whose request_id, and that of each item of a batch, is set.
func withRequestIDs(request proto.Message) proto.Message {
	copied := proto.Clone(request)
	message := copied.ProtoReflect()
	for _, item := range append(items(message), message) {
		if field := fieldNamed(item, "request_id"); field != nil && !item.Has(field) {
			item.Set(field, protoreflect.ValueOfString(uuid.NewString()))
		}
	}
	return copied
}

// isRepeatable reports whether a repeat of a call changes nothing more than the call itself. The API says so by an
// idempotency level and by request ids; calls that it does not know are not repeated.
func isRepeatable(method string, request proto.Message) bool {
	message := request.ProtoReflect()
	name := method[strings.LastIndex(method, "/")+1:]
	parts := append(items(message), message)
	for _, part := range parts {
		// The call itself changes the etag, so a repeat would be ETAG_MISMATCH.
		if isSet(part, "etag") {
			return false
		}
	}
	switch name {
	case "VerifyApiKey", "VerifyPassword":
		// They have no idempotency level, because clients may put requests without side effects into URLs.
		return true
	case "UpsertPackage":
		return isNamed(message, "package_id")
	case "UpsertSegment":
		return isNamed(message, "segment_id")
	case "BatchUpsertPackages":
		for _, item := range items(message) {
			if !isNamed(item, "package_id") {
				return false
			}
		}
		return true
	}
	for _, part := range parts {
		if isSet(part, "request_id") {
			return true
		}
	}
	return isSet(message, "allow_missing") || idempotencyLevel(method) != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}

// isNamed reports whether an upsert names what it changes. Otherwise each repeat creates another one.
func isNamed(message protoreflect.Message, idField protoreflect.Name) bool {
	return isSet(message, idField) || isSet(message, "slug") || isSet(message, "external_id")
}

func idempotencyLevel(method string) descriptorpb.MethodOptions_IdempotencyLevel {
	fullName := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(fullName)
	if err != nil {
		return descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
	}
	options, _ := descriptor.Options().(*descriptorpb.MethodOptions)
	return options.GetIdempotencyLevel()
}

// items returns the requests of a batch, which is a request with a list of messages.
func items(message protoreflect.Message) []protoreflect.Message {
	var result []protoreflect.Message
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !field.IsList() || field.Message() == nil {
			continue
		}
		list := message.Get(field).List()
		for j := range list.Len() {
			result = append(result, list.Get(j).Message())
		}
	}
	return result
}

func fieldNamed(message protoreflect.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return message.Descriptor().Fields().ByName(name)
}

// isSet reports whether a field exists and is neither absent nor its zero value, which these fields treat as absent.
func isSet(message protoreflect.Message, name protoreflect.Name) bool {
	field := fieldNamed(message, name)
	if field == nil || !message.Has(field) {
		return false
	}
	return message.Get(field).Interface() != field.Default().Interface()
}
