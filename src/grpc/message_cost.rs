//! Bounds the memory that a request message takes once it is decoded, before it is decoded.
//!
//! A nested message takes two bytes on the wire and hundreds in memory: 4 MiB of empty items would become half a GiB.
//! Each other field takes at most a small multiple of its bytes, so the size limit of messages bounds them.

use std::{collections::HashMap, sync::LazyLock};

use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

use super::pb;

/// Upper bound of the nested messages of a request, at all depths, map entries included. A batch of 500 items has about
/// 500, a branding of 2,000 values up to 6,000.
pub const MAX_NESTED_MESSAGES: usize = 32_768;
/// Upper bound of the recursion. The decoder stops earlier, at 100 levels.
const MAX_DEPTH: usize = 256;

/// A request has more than [`MAX_NESTED_MESSAGES`] nested messages.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyNestedMessages;

/// Counts the nested messages of an encoded request. Malformed messages are left to the decoder, and so are those of
/// other RPCs than Turnkey's, which count as 0. `rpc_path` is the path of the HTTP/2 request, as in
/// `/turnkey.v1.PackageCatalog/GetPackage`.
///
/// # Errors
/// [`TooManyNestedMessages`].
pub fn count_nested_messages(rpc_path: &str, message: &[u8]) -> Result<usize, TooManyNestedMessages> {
    let Some(&request) = SCHEMA.requests.get(rpc_path) else { return Ok(0) };
    let mut counter = Counter { remaining: MAX_NESTED_MESSAGES };
    match counter.visit(&mut &message[..], 0, request, MAX_DEPTH) {
        Err(Stop::TooMany) => Err(TooManyNestedMessages),
        // The decoder stops there, too, or earlier.
        Err(Stop::Malformed) | Ok(()) => Ok(MAX_NESTED_MESSAGES - counter.remaining),
    }
}

/// Why counting ended before the end of the message.
enum Stop {
    TooMany,
    Malformed,
}

impl From<DecodeError> for Stop {
    fn from(_error: DecodeError) -> Self {
        Self::Malformed
    }
}

struct Counter {
    remaining: usize,
}

impl Counter {
    /// Counts until `end` bytes of the buffer are left. Reads as the decoder does, with its functions, and like it
    /// reads a nested message to its end even if its parent ends earlier. The decoder detects that only afterwards,
    /// when the memory is already allocated.
    fn visit(&mut self, buffer: &mut &[u8], end: usize, message: TypeIndex, depth: usize) -> Result<(), Stop> {
        let depth = depth.checked_sub(1).ok_or(Stop::Malformed)?;
        while buffer.len() > end {
            let (number, wire_type) = decode_key(buffer)?;
            match SCHEMA.nested_fields[message].get(&number) {
                Some(&nested) if wire_type == WireType::LengthDelimited => {
                    let length = usize::try_from(decode_varint(buffer)?).map_err(|_error| Stop::Malformed)?;
                    let end = buffer.len().checked_sub(length).ok_or(Stop::Malformed)?;
                    self.remaining = self.remaining.checked_sub(1).ok_or(Stop::TooMany)?;
                    self.visit(buffer, end, nested, depth)?;
                }
                _ => skip_field(wire_type, number, buffer, DecodeContext::default())?,
            }
        }
        if buffer.len() == end { Ok(()) } else { Err(Stop::Malformed) }
    }
}

/// The position of a message type in [`Schema::nested_fields`].
type TypeIndex = usize;

/// The fields of each message type that are messages themselves.
struct Schema {
    /// The request type of each RPC, by its path.
    requests: HashMap<String, TypeIndex>,
    /// For each message type, the types of its message fields by field number.
    nested_fields: Vec<HashMap<u32, TypeIndex>>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    // The descriptors are part of the executable. A test checks that they decode.
    Schema::new(&FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap_or_default())
});

impl Schema {
    fn new(files: &FileDescriptorSet) -> Self {
        let mut messages = Vec::new();
        for file in &files.file {
            for message in &file.message_type {
                collect(message, &format!(".{}", file.package()), &mut messages);
            }
        }
        let indices: HashMap<&str, TypeIndex> =
            messages.iter().enumerate().map(|(index, (name, _))| (name.as_str(), index)).collect();
        let nested_fields = messages.iter().map(|(_, message)| nested_fields(message, &indices)).collect();
        let mut requests = HashMap::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    requests.extend(indices.get(method.input_type()).map(|&index| (path, index)));
                }
            }
        }
        Self { requests, nested_fields }
    }
}

/// Adds the message and those declared in it, map entries included, by full name with a leading dot.
fn collect<'a>(message: &'a DescriptorProto, parent: &str, messages: &mut Vec<(String, &'a DescriptorProto)>) {
    let name = format!("{parent}.{}", message.name());
    for inner in &message.nested_type {
        collect(inner, &name, messages);
    }
    messages.push((name, message));
}

fn nested_fields(message: &DescriptorProto, indices: &HashMap<&str, TypeIndex>) -> HashMap<u32, TypeIndex> {
    let messages = message.field.iter().filter(|field| field.r#type() == Type::Message);
    messages.filter_map(|field| Some((field.number().cast_unsigned(), *indices.get(field.type_name())?))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::{encode_key, encode_varint};
    use prost_types::{ListValue, Struct, Value, value::Kind};

    use super::*;

    const UPSERT: &str = "/turnkey.v1.PackageCatalog/BatchUpsertPackages";
    const UPDATE: &str = "/turnkey.v1.TenantProvisioning/UpdateTenant";

    /// A batch of this many packages without fields.
    fn empty_items(count: usize) -> Vec<u8> {
        pb::BatchUpsertPackagesRequest { packages: vec![pb::PackageUpsert::default(); count], ..Default::default() }
            .encode_to_vec()
    }

    fn list(values: Vec<Value>) -> Value {
        Value { kind: Some(Kind::ListValue(ListValue { values })) }
    }

    fn update(branding: Struct) -> Vec<u8> {
        pb::UpdateTenantRequest { branding: Some(branding), ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn two_million_empty_items_in_4_mib_are_refused() {
        let message = empty_items(2 * 1024 * 1024);
        assert_eq!(message.len(), 4 * 1024 * 1024);
        assert_eq!(count_nested_messages(UPSERT, &message), Err(TooManyNestedMessages));
    }

    #[test]
    fn a_message_may_have_exactly_as_many_nested_messages_as_the_limit() {
        assert_eq!(count_nested_messages(UPSERT, &empty_items(MAX_NESTED_MESSAGES)), Ok(MAX_NESTED_MESSAGES));
        assert_eq!(count_nested_messages(UPSERT, &empty_items(MAX_NESTED_MESSAGES + 1)), Err(TooManyNestedMessages));
    }

    #[test]
    fn a_batch_of_500_items_and_a_branding_of_2000_values_are_accepted() {
        let item = pb::PackageUpsert { name: Some("Gold".to_owned()), base_price: Some(1), ..Default::default() };
        let batch = pb::BatchUpsertPackagesRequest { packages: vec![item; 500], ..Default::default() };
        assert_eq!(count_nested_messages(UPSERT, &batch.encode_to_vec()), Ok(500));
        let member = |number: i32| (number.to_string(), Value { kind: Some(Kind::StructValue(Struct::default())) });
        assert!(count_nested_messages(UPDATE, &update(Struct { fields: (0..2_000).map(member).collect() })).is_ok());
    }

    #[test]
    fn nested_messages_count_at_every_depth_and_so_do_map_entries() {
        let numbers = vec![Value { kind: Some(Kind::NumberValue(0.0)) }; 200];
        let lists = list(vec![list(numbers); 200]);
        let in_lists = update(Struct { fields: [("lists".to_owned(), lists)].into() });
        assert_eq!(count_nested_messages(UPDATE, &in_lists), Err(TooManyNestedMessages));
        // An entry and its value each.
        let members = |count: usize| {
            let member = |number: usize| (number.to_string(), Value { kind: Some(Kind::BoolValue(true)) });
            update(Struct { fields: (0..count).map(member).collect() })
        };
        assert!(count_nested_messages(UPDATE, &members(MAX_NESTED_MESSAGES / 2 - 1)).is_ok());
        assert_eq!(count_nested_messages(UPDATE, &members(MAX_NESTED_MESSAGES / 2)), Err(TooManyNestedMessages));
    }

    #[test]
    fn unknown_fields_and_groups_in_front_of_the_items_hide_none_of_them() {
        let mut message = Vec::new();
        encode_key(1_000, WireType::StartGroup, &mut message);
        encode_key(2, WireType::Varint, &mut message);
        encode_varint(7, &mut message);
        encode_key(1_000, WireType::EndGroup, &mut message);
        encode_key(1_001, WireType::SixtyFourBit, &mut message);
        message.extend([0; 8]);
        message.extend(empty_items(MAX_NESTED_MESSAGES + 1));
        assert_eq!(count_nested_messages(UPSERT, &message), Err(TooManyNestedMessages));
    }

    /// The decoder notices only after it has decoded the longer message.
    #[test]
    fn nested_messages_count_even_if_they_exceed_the_message_around_them() {
        let values = vec![Value { kind: None }; MAX_NESTED_MESSAGES];
        let branding = Struct { fields: [(String::new(), list(values))].into() }.encode_to_vec();
        let mut message = Vec::new();
        encode_key(4, WireType::LengthDelimited, &mut message);
        encode_varint(2, &mut message);
        message.extend(branding);
        assert!(pb::UpdateTenantRequest::decode(message.as_slice()).is_err());
        assert_eq!(count_nested_messages(UPDATE, &message), Err(TooManyNestedMessages));
    }

    #[test]
    fn malformed_messages_and_unknown_rpcs_are_left_to_others() {
        let items = empty_items(MAX_NESTED_MESSAGES + 1);
        for path in ["/grpc.health.v1.Health/Check", "/turnkey.v1.PackageCatalog/Unknown", ""] {
            assert_eq!(count_nested_messages(path, &items), Ok(0), "{path}");
        }
        let cut_off = &items[..100];
        for malformed in [&[0x00][..], &[0xff; 12], &[0x12, 0x05, 0x00], cut_off] {
            assert!(count_nested_messages(UPSERT, malformed).is_ok(), "{malformed:?}");
        }
        let deep = (0..MAX_DEPTH).fold(list(Vec::new()), |inner, _| list(vec![inner]));
        let deep = update(Struct { fields: [("deep".to_owned(), deep)].into() });
        assert!(pb::UpdateTenantRequest::decode(deep.as_slice()).is_err());
        assert!(count_nested_messages(UPDATE, &deep).is_ok());
    }

    #[test]
    fn the_request_of_every_rpc_is_known() {
        let files = FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service);
        assert_eq!(SCHEMA.requests.len(), services.map(|service| service.method.len()).sum::<usize>());
        assert!(SCHEMA.requests.contains_key(UPSERT) && SCHEMA.requests.contains_key(UPDATE));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_checked_without_a_panic(bytes in any::<Vec<u8>>()) {
            for path in [UPSERT, UPDATE] {
                prop_assert!(count_nested_messages(path, &bytes).is_ok());
            }
        }
    }
}
