//! `docs/openapi.json`, which describes the HTTP API. It is generated from the descriptors of the RPCs, comments
//! included; only the paths that are not RPCs, in [`other_paths`], are written here. `make reference` writes it, and a
//! test fails if it is stale.
//!
//! A generator of its own: those of others need a plugin that the build does not have otherwise, and know neither the
//! platform's calls nor which responses contain zero values.

mod other_paths;
mod schemas;

use std::{fs, path::PathBuf};

use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use serde_json::{Map, Value, json};
use turnkey::grpc::pb::DESCRIPTORS;

use self::schemas::{Schemas, comment, reference};

const DESCRIPTION: &str = "\
Every RPC by the [Connect protocol](https://connectrpc.com/docs/protocol) with JSON, the two established calls of the \
platform, and health. Descriptions are those of the protobuf files: they name fields in snake case, which requests may \
use in place of camel case. docs/http.md describes what all calls have in common.";

fn file() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "docs", "openapi.json"].iter().collect()
}

#[test]
fn the_openapi_document_is_that_of_the_protobuf_files() {
    let committed: Value = serde_json::from_slice(&fs::read(file()).unwrap()).unwrap();
    assert!(committed == document(), "docs/openapi.json is stale: run `make reference`");
}

#[test]
#[ignore = "writes docs/openapi.json; run by `make reference`"]
fn write_the_openapi_document() {
    fs::write(file(), format!("{:#}\n", document())).unwrap();
}

fn document() -> Value {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services: Vec<ServiceDescriptor> =
        pool.services().filter(|service| service.package_name() == "turnkey.v1").collect();
    let methods: Vec<MethodDescriptor> =
        services.iter().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    let mut schemas = Schemas::of(&methods).into_json();
    for (name, schema) in other_paths::schemas() {
        assert!(schemas.insert(name, schema).is_none(), "a message has the name of another schema");
    }
    let mut paths: Map<String, Value> = methods.iter().map(|method| (path(method), operation(method))).collect();
    paths.extend(other_paths::paths());
    let tag = |service: &ServiceDescriptor| json!({ "name": service.name(), "description": comment(&service.parent_file(), service.path()) });
    let mut tags: Vec<Value> = services.iter().map(tag).collect();
    tags.extend(other_paths::tags());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Turnkey",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8080", "description": "make run" }],
        // A server on a loopback address may need no credential.
        "security": [{ "bearer": [] }, {}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A service token, or the secret key of a tenant for PackageCatalog.",
            } },
            "parameters": { "Timeout": {
                "name": "Connect-Timeout-Ms",
                "in": "header",
                "description": "The deadline of the call in milliseconds, at most 10 digits.",
                "schema": { "type": "integer", "minimum": 0 },
            } },
            "responses": { "Error": {
                "description": "The call failed. The status is that of the code.",
                "content": { "application/json": { "schema": reference("Error") } },
            } },
        },
    })
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn operation(method: &MethodDescriptor) -> Value {
    let description = comment(&method.parent_service().parent_file(), method.path());
    let summary = description.split_inclusive(['.', ':']).next().unwrap_or_default();
    let (content_type, note) = if method.is_server_streaming() {
        ("application/connect+json", " Each message, the request included, is in an envelope of the Connect protocol.")
    } else {
        ("application/json", "")
    };
    let content = |message: &str| json!({ content_type: { "schema": reference(message) } });
    let success = format!("The call succeeded.{note}");
    let mut responses = json!({ "200": { "description": success, "content": content(method.output().name()) } });
    if !method.is_server_streaming() {
        responses["default"] = json!({ "$ref": "#/components/responses/Error" });
    }
    json!({ "post": {
        "operationId": method.name(),
        "tags": [method.parent_service().name()],
        "summary": summary.trim_end_matches(['.', ':']).replace('\n', " "),
        "description": description,
        "parameters": [{ "$ref": "#/components/parameters/Timeout" }],
        "requestBody": { "required": true, "content": content(method.input().name()) },
        "responses": responses,
    } })
}
