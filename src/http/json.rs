//! The RPCs and their messages in JSON, by the descriptors that reflection serves too: there is no second set of
//! message types. `turnkey call` uses them, too.
//!
//! The JSON form is that of protobuf (<https://protobuf.dev/programming-guides/json/>). Responses contain fields with
//! their zero values, so that a client needs no defaults of its own.

use std::{collections::HashMap, io, marker::PhantomData, sync::LazyLock};

use prost::{Message as _, bytes::Bytes};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use prost_types::Any;
use serde::{
    Serialize,
    de::{DeserializeOwned, DeserializeSeed},
};
use serde_json::{
    error::Category,
    ser::{CompactFormatter, Formatter, PrettyFormatter},
};
use serde_path_to_error::{Path, Track};

use crate::{
    domain::{InvalidValue, Reason, Violations},
    error::{Error, Result},
    grpc::{MAX_NESTED_MESSAGES, pb},
};

/// The package of the RPCs that are served. Health has paths of its own, and reflection describes gRPC.
const PACKAGE: &str = "turnkey.v1";
/// How deep the JSON of a request may be nested. A level of a JSON object is three in protobuf, whose decoder permits
/// 100.
const MAX_DEPTH: usize = 32;

/// An RPC and its messages.
#[derive(Debug)]
pub struct Rpc {
    /// As in `/turnkey.v1.PackageCatalog/GetPackage`.
    pub path: String,
    pub request: MessageDescriptor,
    pub response: MessageDescriptor,
    pub is_server_streaming: bool,
}

// The descriptors are part of the executable. Tests check that they decode.
static RPCS: LazyLock<HashMap<String, Rpc>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap_or_default();
    let methods = pool.services().filter(|service| service.package_name() == PACKAGE).flat_map(|service| {
        let name = service.full_name().to_owned();
        service.methods().map(move |method| (format!("/{name}/{}", method.name()), method)).collect::<Vec<_>>()
    });
    let rpcs = methods.filter(|(_, method)| !method.is_client_streaming()).map(|(path, method)| Rpc {
        path,
        request: method.input(),
        response: method.output(),
        is_server_streaming: method.is_server_streaming(),
    });
    rpcs.map(|rpc| (rpc.path.clone(), rpc)).collect()
});

/// The details of errors.
static DETAILS: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap_or_default());

/// Decodes the descriptors, so that the first call need not wait for it.
pub(super) fn prepare() {
    LazyLock::force(&RPCS);
    LazyLock::force(&DETAILS);
}

pub fn find_rpc(path: &str) -> Option<&'static Rpc> {
    RPCS.get(path)
}

/// Converts a request to protobuf.
///
/// # Errors
/// Those of [`parse`].
pub fn to_protobuf(message: &MessageDescriptor, json: &[u8]) -> Result<Bytes> {
    Ok(parse(message.clone(), json)?.encode_to_vec().into())
}

/// Converts a response to JSON.
pub fn from_protobuf(message: &MessageDescriptor, protobuf: Bytes) -> Result<Bytes> {
    from_protobuf_as(CompactFormatter, message, protobuf)
}

/// Converts a response to JSON of several lines.
pub fn indented_from_protobuf(message: &MessageDescriptor, protobuf: Bytes) -> Result<Bytes> {
    from_protobuf_as(PrettyFormatter::new(), message, protobuf)
}

fn from_protobuf_as(layout: impl Formatter, message: &MessageDescriptor, protobuf: Bytes) -> Result<Bytes> {
    let message = DynamicMessage::decode(message.clone(), protobuf).map_err(Error::internal)?;
    let options = SerializeOptions::new().skip_default_fields(false);
    write(layout, |serializer| message.serialize_with_options(serializer, &options))
}

/// Converts a response whose form is a Rust type to JSON.
pub(super) fn to_json(response: &impl Serialize) -> Result<Bytes> {
    write(CompactFormatter, |serializer| response.serialize(serializer))
}

fn write<Layout: Formatter>(
    layout: Layout,
    serialize: impl FnOnce(&mut serde_json::Serializer<Vec<u8>, WholeNumbers<Layout>>) -> serde_json::Result<()>,
) -> Result<Bytes> {
    let mut serializer = serde_json::Serializer::with_formatter(Vec::new(), WholeNumbers(layout));
    serialize(&mut serializer).map_err(Error::internal)?;
    Ok(serializer.into_inner().into())
}

/// Implements methods of [`Formatter`] that write no value.
macro_rules! delegate_to_layout {
    ($($method:ident($($is_first:ident)?);)+) => {$(
        fn $method<Writer: ?Sized + io::Write>(&mut self, writer: &mut Writer $(, $is_first: bool)?) -> io::Result<()> {
            self.0.$method(writer $(, $is_first)?)
        }
    )+};
}

/// Writes a double without a fraction as `10`, as JavaScript and other implementations of protobuf do, and not as
/// `10.0`, which some clients read as another type. The inner formatter determines the lines and spaces.
struct WholeNumbers<Layout>(Layout);

impl<Layout: Formatter> Formatter for WholeNumbers<Layout> {
    fn write_f64<Writer: ?Sized + io::Write>(&mut self, writer: &mut Writer, value: f64) -> io::Result<()> {
        /// 2^53. Larger numbers keep the shortest form.
        const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;
        let is_whole = value.fract() == 0.0 && value.abs() < MAX_WHOLE && !(value == 0.0 && value.is_sign_negative());
        if is_whole { write!(writer, "{value:.0}") } else { self.0.write_f64(writer, value) }
    }

    delegate_to_layout! {
        begin_array(); begin_array_value(is_first); end_array_value(); end_array();
        begin_object(); begin_object_key(is_first); begin_object_value(); end_object_value(); end_object();
    }
}

/// Returns the detail of an error in JSON; `None` if its type is unknown.
pub(super) fn detail(detail: &Any) -> Option<serde_json::Value> {
    let name = detail.type_url.rsplit('/').next()?;
    let message = DynamicMessage::decode(DETAILS.get_message_by_name(name)?, detail.value.as_slice()).ok()?;
    serde_json::to_value(message).ok()
}

/// Parses a request whose form is a Rust type.
///
/// # Errors
/// Those of [`parse`].
pub(super) fn parse_as<Request: DeserializeOwned>(json: &[u8]) -> Result<Request> {
    parse(PhantomData::<Request>, json)
}

/// Parses a request.
///
/// # Errors
/// [`Error::MalformedMessage`]; [`Error::InvalidRequest`] for an unknown field or a value of the wrong type;
/// [`Error::TooManyNestedMessages`] if it would take too much memory.
fn parse<'json, Seed: DeserializeSeed<'json>>(seed: Seed, json: &'json [u8]) -> Result<Seed::Value> {
    check_cost(json, MAX_NESTED_MESSAGES)?;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut track = Track::new();
    let parsed = seed.deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track));
    let parsed = parsed.map_err(|error| unreadable(&error, &track.path()))?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(parsed)
}

/// Bounds the memory that a request takes once it is parsed, before it is parsed: each value takes up to a KiB. The
/// number of values of a call is limited as that of nested messages in gRPC.
pub(super) fn check_cost(json: &[u8], max_values: usize) -> Result<()> {
    let (mut values, mut depth, mut is_in_text, mut is_escaped) = (1_usize, 0_usize, false, false);
    for &byte in json {
        if is_in_text {
            is_in_text = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => is_in_text = true,
            b'{' | b'[' => {
                values += 1;
                depth += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if values > max_values {
            return Err(Error::TooManyNestedMessages);
        }
        if depth > MAX_DEPTH {
            return Err(Error::MalformedMessage(format!("the JSON is nested more than {MAX_DEPTH} levels deep")));
        }
    }
    Ok(())
}

fn malformed(error: &serde_json::Error) -> Error {
    let what = if error.is_eof() { "ends too early" } else { "is malformed" };
    Error::MalformedMessage(format!("the JSON {what} at line {} column {}", error.line(), error.column()))
}

/// The error names the field. It does not repeat the value, which may be a secret.
fn unreadable(error: &serde_json::Error, path: &Path) -> Error {
    if error.classify() != Category::Data {
        return malformed(error);
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let parent = Some(path.to_string()).filter(|path| path != ".");
    let (field, description) = if let Some(name) = quoted(text, "unrecognized field name '", '\'') {
        // Of prost-reflect, which has left the field already.
        let field = parent.map_or_else(|| name.to_owned(), |parent| format!("{parent}.{name}"));
        (field, "is not a field of this request".to_owned())
    } else if let Some(name) = quoted(text, "unknown field `", '`') {
        // Of serde, which is still in the field.
        (parent.unwrap_or_else(|| name.to_owned()), "is not a field of this request".to_owned())
    } else if let Some((_, oneof)) = text.split_once("multiple fields provided for oneof ") {
        (oneof.trim_matches('\'').to_owned(), "can be set by one field only".to_owned())
    } else {
        let expected = text.rsplit_once(", expected ").map(|(_, expected)| format!("must be {expected}"));
        match parent {
            Some(field) => (field, expected.unwrap_or_else(|| "has an invalid value".to_owned())),
            None => return Error::MalformedMessage("the JSON must be an object".to_owned()),
        }
    };
    let mut violations = Violations::default();
    violations.add(field, InvalidValue::new(Reason::BadFormat, description));
    violations.into()
}

/// The text after the prefix, up to the quotation mark.
fn quoted<'a>(error: &'a str, prefix: &str, mark: char) -> Option<&'a str> {
    error.strip_prefix(prefix)?.split_once(mark).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_descriptors_have_every_rpc_and_the_details_of_errors() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        assert_eq!(RPCS.len(), pool.services().map(|service| service.methods().len()).sum::<usize>());
        assert!(RPCS["/turnkey.v1.TenantProvisioning/CheckIntegrity"].is_server_streaming);
        assert!(!RPCS["/turnkey.v1.PackageCatalog/GetPackage"].is_server_streaming);
        for name in ["BadRequest", "ErrorInfo", "PreconditionFailure", "QuotaFailure", "ResourceInfo", "RetryInfo"] {
            assert!(DETAILS.get_message_by_name(&format!("google.rpc.{name}")).is_some(), "{name}");
        }
    }

    #[test]
    fn doubles_without_a_fraction_are_whole_numbers_and_all_read_the_same_again() {
        let numbers: [f64; 10] =
            [10.0, -3.0, 0.0, -0.0, 12.34, 0.1, 9_007_199_254_740_991.0, 9_007_199_254_740_992.0, 1e300, 5e-324];
        let json = to_json(&numbers).unwrap();
        let expected = "[10,-3,0,-0.0,12.34,0.1,9007199254740991,9007199254740992.0,1e+300,5e-324]";
        assert_eq!(str::from_utf8(&json).unwrap(), expected);
        let read: Vec<f64> = serde_json::from_slice(&json).unwrap();
        assert!(read.iter().zip(numbers).all(|(read, number)| read.to_bits() == number.to_bits()));
    }

    #[test]
    fn json_is_indented_and_text_in_it_is_unchanged() {
        let json = serde_json::json!({"a": [], "b": {}, "c": [1.0, {"d": "x, {y}: \"\\"}], "e": "\\"});
        let expected = r#"{
  "a": [],
  "b": {},
  "c": [
    1,
    {
      "d": "x, {y}: \"\\"
    }
  ],
  "e": "\\"
}"#;
        let indented = write(PrettyFormatter::new(), |serializer| json.serialize(serializer)).unwrap();
        assert_eq!(str::from_utf8(&indented).unwrap(), expected);
    }

    #[test]
    fn values_are_counted_before_they_are_parsed_and_brackets_in_text_are_none() {
        let check_cost = |json: &str| check_cost(json.as_bytes(), MAX_NESTED_MESSAGES);
        let items = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(check_cost(&items(MAX_NESTED_MESSAGES - 1)).is_ok());
        assert!(matches!(check_cost(&items(MAX_NESTED_MESSAGES)), Err(Error::TooManyNestedMessages)));
        let text = format!(r#"{{"a\\\"": "{}"}}"#, r#"[{,\""#.repeat(MAX_NESTED_MESSAGES));
        assert!(check_cost(&text).is_ok());
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check_cost(&nested(MAX_DEPTH)).is_ok());
        assert!(matches!(check_cost(&nested(MAX_DEPTH + 1)), Err(Error::MalformedMessage(_))));
    }
}
