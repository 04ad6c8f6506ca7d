//! Fields of the command line, `FIELD=VALUE`, as parts of the request's JSON.
//!
//! This file finds the fields and decides where a value goes. Whether a value is valid decides the conversion of the
//! JSON.

use std::collections::HashSet;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Number, Value};

use super::super::Error;

const STRUCT: &str = "google.protobuf.Struct";
/// Names that are less similar are no suggestions.
const MIN_SIMILARITY: f64 = 0.8;

/// Adds the fields to the request. A list gets an item for each time that its field is given.
pub fn set_all(message: &MessageDescriptor, request: &mut Map<String, Value>, fields: &[String]) -> Result<(), Error> {
    let mut given = HashSet::new();
    for field in fields {
        let (path, value) = field
            .split_once('=')
            .ok_or_else(|| format!("{field} is not of the form FIELD=VALUE; a request in JSON is given with --data"))?;
        let is_list = set(message, request, path, path, value)?;
        if !is_list && !given.insert(path) {
            return Err(format!("the field {path} is given twice, and is not a list").into());
        }
    }
    Ok(())
}

/// Sets the field at `path`, the rest of `whole`, and returns whether it is a list.
fn set(
    message: &MessageDescriptor,
    object: &mut Map<String, Value>,
    path: &str,
    whole: &str,
    value: &str,
) -> Result<bool, Error> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = find(message, name)?;
    let entry = entry(object, &field);
    let Some(rest) = rest else {
        let value = leaf(&field.kind(), value);
        if !field.is_list() {
            *entry = value;
            return Ok(false);
        }
        match entry {
            Value::Array(items) => items.push(value),
            entry => *entry = Value::Array(vec![value]),
        }
        return Ok(true);
    };
    let Kind::Message(inner) = field.kind() else {
        return Err(format!("{whole}: {name} is not a message and has no fields").into());
    };
    if field.is_list() {
        return Err(format!("{whole}: {name} is a list of messages; give each as JSON, as in {name}='{{…}}'").into());
    }
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    let Value::Object(inner_object) = entry else { return Ok(false) };
    if field.is_map() {
        // Keys can contain dots.
        inner_object.insert(rest.to_owned(), leaf(&inner.map_entry_value_field().kind(), value));
    } else if inner.full_name() == STRUCT {
        set_free(inner_object, rest, value);
    } else {
        return set(&inner, inner_object, rest, whole, value);
    }
    Ok(false)
}

/// Sets a value in an object whose names are free.
fn set_free(object: &mut Map<String, Value>, path: &str, value: &str) {
    match path.split_once('.') {
        None => {
            object.insert(path.to_owned(), json_or_text(value));
        }
        Some((name, rest)) => {
            let entry = object.entry(name).or_insert(Value::Null);
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Value::Object(inner) = entry {
                set_free(inner, rest, value);
            }
        }
    }
}

/// The value of the field, which JSON can have under either name.
fn entry<'a>(object: &'a mut Map<String, Value>, field: &FieldDescriptor) -> &'a mut Value {
    let old = object.remove(field.name());
    object.entry(field.json_name()).or_insert_with(|| old.unwrap_or(Value::Null))
}

fn find(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, Error> {
    if let Some(field) = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name)) {
        return Ok(field);
    }
    let fields: Vec<FieldDescriptor> = message.fields().collect();
    let names = fields.iter().map(FieldDescriptor::name);
    let hint = match nearest(name, names.clone()) {
        Some(near) => format!("did you mean {near}?"),
        None if fields.is_empty() => "it has no fields".to_owned(),
        None => format!("its fields are {}", names.collect::<Vec<_>>().join(", ")),
    };
    Err(format!("{} has no field {name}; {hint}", message.name()).into())
}

/// Returns the name that is most similar.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let scored = names.map(|other| (strsim::jaro_winkler(&name, &other.to_lowercase()), other));
    let best = scored.max_by(|(left, _), (right, _)| left.total_cmp(right));
    best.filter(|(similarity, _)| *similarity >= MIN_SIMILARITY).map(|(_, name)| name)
}

fn leaf(kind: &Kind, text: &str) -> Value {
    match kind {
        Kind::Bool => text.parse().map_or_else(|_| text.into(), Value::Bool),
        Kind::String | Kind::Bytes => text.into(),
        // A Timestamp or a Duration is text.
        Kind::Message(_) => json_or_text(text),
        // Names of enums, and the numbers that JSON cannot express, are text.
        _ => text.parse::<Number>().map_or_else(|_| text.into(), Value::Number),
    }
}

fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use serde_json::json;

    use super::*;
    use crate::grpc::pb;

    fn request(message: &str, fields: &[&str]) -> Result<Value, String> {
        request_with(json!({}), message, fields)
    }

    fn request_with(data: Value, message: &str, fields: &[&str]) -> Result<Value, String> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let message = pool.get_message_by_name(&format!("turnkey.v1.{message}")).unwrap();
        let Value::Object(mut request) = data else { panic!("{data}") };
        let fields: Vec<String> = fields.iter().map(|&field| field.to_owned()).collect();
        set_all(&message, &mut request, &fields).map_err(|error| error.to_string())?;
        Ok(Value::Object(request))
    }

    #[test]
    fn a_field_has_either_name_and_the_type_of_the_api() {
        let expected =
            json!({"tenantId": "7", "basePrice": 120_000, "active": false, "bookingType": "BOOKING_TYPE_DATE"});
        let fields = |names: [&str; 4]| {
            let values = ["7", "120000", "false", "BOOKING_TYPE_DATE"];
            names.iter().zip(values).map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        for names in
            [["tenant_id", "base_price", "active", "booking_type"], ["tenantId", "basePrice", "active", "bookingType"]]
        {
            let fields = fields(names);
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            assert_eq!(request("UpsertPackageRequest", &fields), Ok(expected.clone()));
        }
        assert_eq!(request("GetTenantRequest", &["slug=a=b"]), Ok(json!({"slug": "a=b"})));
        assert_eq!(request("RotateApiKeyRequest", &["overlap=3600s"]), Ok(json!({"overlap": "3600s"})));
    }

    #[test]
    fn lists_nested_messages_and_free_objects_are_built() {
        assert_eq!(request("ListEventsRequest", &["types=a", "types=b"]), Ok(json!({"types": ["a", "b"]})));
        let items = request("BatchCreateFullyProvisionedRequest", &[r#"requests={"slug":"a"}"#]);
        assert_eq!(items, Ok(json!({"requests": [{"slug": "a"}]})));
        let branding = ["branding.colors.main=red", "branding.year=2026", "branding.sizes=[1,2]"];
        let expected = json!({"branding": {"colors": {"main": "red"}, "year": 2026, "sizes": [1, 2]}});
        assert_eq!(request("UpdateTenantRequest", &branding), Ok(expected));
        assert_eq!(request("Event", &["time=2026-01-01T00:00:00Z"]), Ok(json!({"time": "2026-01-01T00:00:00Z"})));
        assert_eq!(request("UpsertPackageResponse", &["package.name=x"]), Ok(json!({"package": {"name": "x"}})));
    }

    #[test]
    fn fields_are_added_to_data_and_replace_its_values_under_either_name() {
        let data = json!({"tenant_id": "1", "name": "a", "types": ["x"]});
        let merged = request_with(data, "ListEventsRequest", &["tenantId=2", "types=y"]);
        assert_eq!(merged, Ok(json!({"tenantId": "2", "name": "a", "types": ["x", "y"]})));
    }

    #[test]
    fn errors_name_the_field_and_suggest_the_nearest() {
        for (message, field, expected) in [
            ("GetTenantRequest", "slg=a", "GetTenantRequest has no field slg; did you mean slug?"),
            ("GetTenantRequest", "tenantid=a", "GetTenantRequest has no field tenantid; did you mean tenant_id?"),
            ("SuspendTenantRequest", "q=a", "SuspendTenantRequest has no field q; its fields are tenant_id"),
            ("GetTenantRequest", "slug", "slug is not of the form FIELD=VALUE; a request in JSON is given with --data"),
            ("GetTenantRequest", "slug.x=a", "slug.x: slug is not a message and has no fields"),
            (
                "BatchUpsertPackagesRequest",
                "packages.name=a",
                "packages.name: packages is a list of messages; give each as JSON, as in packages='{…}'",
            ),
        ] {
            assert_eq!(request(message, &[field]), Err(expected.to_owned()));
        }
        let twice = request("GetTenantRequest", &["slug=a", "slug=b"]);
        assert_eq!(twice, Err("the field slug is given twice, and is not a list".to_owned()));
    }
}
