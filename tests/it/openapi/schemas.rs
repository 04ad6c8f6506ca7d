//! The JSON schemas of protobuf messages, in the form that the service reads and writes.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use prost_types::FieldOptions;
use serde_json::{Map, Value, json};

/// Messages and enums by name.
#[derive(Default)]
pub struct Schemas {
    messages: BTreeMap<String, MessageDescriptor>,
    enums: BTreeMap<String, EnumDescriptor>,
    /// The messages that requests contain, whose fields may be absent.
    in_requests: BTreeSet<String>,
}

pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The comment above a declaration.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    let location = info.location.iter().find(|location| location.path == path).unwrap();
    let lines = location.leading_comments().lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

impl Schemas {
    /// Everything that the requests and responses of these methods contain.
    pub fn of(methods: &[MethodDescriptor]) -> Self {
        let mut schemas = Self::default();
        for method in methods {
            schemas.add(&method.output());
        }
        let of_responses = std::mem::take(&mut schemas.messages);
        for method in methods {
            schemas.add(&method.input());
        }
        schemas.in_requests = schemas.messages.keys().cloned().collect();
        schemas.messages.extend(of_responses);
        schemas
    }

    fn add(&mut self, message: &MessageDescriptor) {
        if self.messages.insert(message.name().to_owned(), message.clone()).is_some() {
            return;
        }
        for field in message.fields() {
            match value_kind(&field) {
                Kind::Message(inner) if well_known(&inner).is_none() => self.add(&inner),
                Kind::Enum(values) => {
                    self.enums.insert(values.name().to_owned(), values);
                }
                _ => {}
            }
        }
    }

    pub fn into_json(self) -> Map<String, Value> {
        let messages = self.messages.values().map(|message| (message.name().to_owned(), self.message(message)));
        messages.chain(self.enums.values().map(|values| (values.name().to_owned(), enumeration(values)))).collect()
    }

    fn message(&self, message: &MessageDescriptor) -> Value {
        let is_in_requests = self.in_requests.contains(message.name());
        let property = |field: FieldDescriptor| (field.json_name().to_owned(), property(&field, is_in_requests));
        let mut schema = json!({
            "type": "object",
            "description": comment(&message.parent_file(), message.path()),
            "properties": message.fields().map(property).collect::<Map<String, Value>>(),
        });
        if is_in_requests {
            // An unknown field is an error. Responses may get further fields.
            schema["additionalProperties"] = json!(false);
        } else {
            // Responses contain zero values. Only fields with presence can be absent.
            let required = message.fields().filter(|field| !field.supports_presence());
            let required: Vec<String> = required.map(|field| field.json_name().to_owned()).collect();
            schema["required"] = json!(required);
        }
        schema
    }
}

fn property(field: &FieldDescriptor, is_in_request: bool) -> Value {
    let mut schema = match value_kind(field) {
        Kind::Message(message) => well_known(&message).unwrap_or_else(|| reference(message.name())),
        Kind::Enum(values) => reference(values.name()),
        kind => scalar(&kind, is_in_request),
    };
    if field.is_list() {
        schema = json!({ "type": "array", "items": schema });
    }
    if field.is_map() {
        schema = json!({ "type": "object", "additionalProperties": schema });
    }
    let mut description = comment(&field.parent_message().parent_file(), field.path());
    if let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
        let names: Vec<String> = oneof.fields().map(|field| format!("`{}`", field.json_name())).collect();
        description = format!("{description}\n\nOnly one of {} is present.", names.join(", "));
    }
    schema["description"] = json!(description);
    if field.field_descriptor_proto().options.as_ref().is_some_and(FieldOptions::deprecated) {
        schema["deprecated"] = json!(true);
    }
    schema
}

/// The kind of the field, or of the values of a map, whose keys are text in JSON.
fn value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

fn scalar(kind: &Kind, is_in_request: bool) -> Value {
    match kind {
        Kind::String => json!({ "type": "string" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Double => json!({ "type": "number", "format": "double" }),
        Kind::Int32 | Kind::Uint32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Int64 | Kind::Uint64 if is_in_request => json!({ "type": ["string", "integer"], "format": "int64" }),
        Kind::Int64 | Kind::Uint64 => json!({ "type": "string", "format": "int64" }),
        other => panic!("no schema for {other:?} yet"),
    }
}

fn well_known(message: &MessageDescriptor) -> Option<Value> {
    match message.full_name() {
        "google.protobuf.Timestamp" => Some(json!({ "type": "string", "format": "date-time" })),
        "google.protobuf.Duration" => Some(json!({ "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$" })),
        "google.protobuf.Struct" => Some(json!({ "type": "object", "additionalProperties": true })),
        "google.protobuf.FieldMask" => Some(json!({ "type": "string" })),
        name => {
            assert!(!name.starts_with("google."), "no schema for {name} yet");
            None
        }
    }
}

fn enumeration(values: &EnumDescriptor) -> Value {
    let file = values.parent_file();
    let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
    let explained = values.values().map(|value| {
        let text = comment(&file, value.path()).replace('\n', " ");
        format!("- `{}`: {text}", value.name())
    });
    let explained = explained.collect::<Vec<_>>().join("\n");
    let description = format!("{}\n\n{explained}", comment(&file, values.path()));
    json!({ "type": "string", "enum": names, "description": description })
}
