//! Generates the messages and the clients, and an implementation of [`Rpc`](src/rpc.rs) for each request.

mod codegen;

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use protox::prost_reflect::{Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

/// RPCs that neither only read nor have a request id, and that can be repeated although the outcome of the first call is
/// unknown (docs/retries.md, "Calls without a `request_id`").
const REPEATABLE: [&str; 12] = [
    "CreateOwnerToken",
    "DeleteTenant",
    "ReactivateTenant",
    "ResetPassword",
    "RevokeApiKey",
    "SetOwner",
    "SuspendTenant",
    "UndeleteTenant",
    "UpdateTenant",
    "VerifyApiKey",
    "VerifyEmail",
    "VerifyPassword",
];

/// Of `google.protobuf.MethodOptions.IdempotencyLevel`.
const NO_SIDE_EFFECTS: i32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = codegen::generate("proto", tonic_prost_build::configure().build_server(false))?;
    let services: Vec<_> = pool.services().filter(|service| service.package_name() == "turnkey.v1").collect();
    let rpcs: Vec<MethodDescriptor> = services.iter().flat_map(ServiceDescriptor::methods).collect();
    if let Some(unknown) = REPEATABLE.iter().find(|name| !rpcs.iter().any(|rpc| rpc.name() == **name)) {
        return Err(format!("no RPC is named {unknown}").into());
    }
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
    let repeatable = reads_only(rpc) || !request_id.is_empty() || REPEATABLE.contains(&name);
    writeln!(
        code,
        "impl Rpc for pb::{request} {{\n    \
         type Response = pb::{response};\n    \
         const PATH: &'static str = \"/{service}/{name}\";\n    \
         const IS_REPEATABLE: bool = {repeatable};\n{request_id}}}\n\
         impl {kind}Rpc for pb::{request} {{}}",
        request = request.name(),
        response = response.name(),
    )?;
    Ok(())
}

/// Whether the RPC has the option `idempotency_level = NO_SIDE_EFFECTS`.
fn reads_only(rpc: &MethodDescriptor) -> bool {
    let level = rpc.options().get_field_by_name("idempotency_level").and_then(|value| value.as_enum_number());
    level == Some(NO_SIDE_EFFECTS)
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
