//! Generates the messages and the clients, and an implementation of [`Rpc`](src/rpc.rs) for each request.

mod codegen;

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use protox::prost_reflect::{Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

/// RPCs that can be repeated and have no idempotency level, because HTTP clients may put requests without side effects
/// into URLs, and those of these RPCs contain secrets.
const VERIFICATIONS: [&str; 2] = ["VerifyApiKey", "VerifyPassword"];

/// Of `google.protobuf.MethodOptions.IdempotencyLevel`.
const IDEMPOTENCY_UNKNOWN: i32 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = codegen::generate("proto", tonic_prost_build::configure().build_server(false))?;
    let services: Vec<_> = pool.services().filter(|service| service.package_name() == "turnkey.v1").collect();
    let rpcs: Vec<MethodDescriptor> = services.iter().flat_map(ServiceDescriptor::methods).collect();
    let mut code = String::new();
    for rpc in &rpcs {
        implement(rpc, &mut code)?;
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("rpcs.rs"), code)?;
    Ok(())
}

fn implement(rpc: &MethodDescriptor, code: &mut String) -> Result<(), Box<dyn Error>> {
    let (request, response) = (rpc.input(), rpc.output());
    let (service, name) = (rpc.parent_service().full_name().to_owned(), rpc.name());
    let (kind, request_id) =
        if rpc.is_server_streaming() { ("Streaming", "") } else { ("Unary", set_request_ids(&request)) };
    let repeatable = is_idempotent(rpc) || !request_id.is_empty() || VERIFICATIONS.contains(&name);
    let etag = match request.get_field_by_name("etag") {
        Some(_) => "    fn has_etag(&self) -> bool {\n        self.etag.is_some()\n    }\n",
        None => "",
    };
    writeln!(
        code,
        "impl Rpc for pb::{request} {{\n    \
         type Response = pb::{response};\n    \
         const PATH: &'static str = \"/{service}/{name}\";\n    \
         const IS_REPEATABLE: bool = {repeatable};\n{etag}{request_id}}}\n\
         impl {kind}Rpc for pb::{request} {{}}",
        request = request.name(),
        response = response.name(),
    )?;
    Ok(())
}

/// Whether the RPC has the option `idempotency_level`: it only reads, or a repeat changes nothing more.
fn is_idempotent(rpc: &MethodDescriptor) -> bool {
    let level = rpc.options().get_field_by_name("idempotency_level").and_then(|value| value.as_enum_number());
    level.is_some_and(|level| level != IDEMPOTENCY_UNKNOWN)
}

/// The method that gives a request its id, or its items theirs; empty if it has none.
fn set_request_ids(request: &MessageDescriptor) -> &'static str {
    if request.get_field_by_name("request_id").is_some() {
        return "    fn set_request_ids(&mut self, new_id: fn() -> String) {\n        \
                self.request_id.get_or_insert_with(new_id);\n    }\n";
    }
    let items = request.get_field_by_name("requests");
    match items.map(|field| field.kind()) {
        Some(Kind::Message(item)) if item.get_field_by_name("request_id").is_some() => {
            "    fn set_request_ids(&mut self, new_id: fn() -> String) {\n        \
             self.requests.iter_mut().for_each(|item| item.set_request_ids(new_id));\n    }\n"
        }
        _ => "",
    }
}
