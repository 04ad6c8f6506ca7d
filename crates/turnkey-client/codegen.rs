//! Generates Rust from the protobuf API with protox, so that a build does not need protoc. The build scripts of this
//! crate and of the server share it.
//!
//! A message with a `debug_redact` field gets a `Debug` that shows no field, because the derived one would print the
//! secret.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use protox::prost_reflect::DescriptorPool;
use tonic_prost_build::Builder;

const PROTO_FILES: [&str; 2] = ["turnkey/v1/tenant_provisioning.proto", "turnkey/v1/package_catalog.proto"];

/// Writes the code, `redacted_debug.rs`, and `descriptors.bin` with all comments into the output directory.
pub fn generate(proto_root: &str, builder: Builder) -> Result<DescriptorPool, Box<dyn Error>> {
    println!("cargo::rerun-if-changed={proto_root}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([proto_root])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTO_FILES)?;
    fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let pool = compiler.descriptor_pool();
    let redacted_messages = messages_to_redact(&pool);
    let mut redacted_debug = String::new();
    for message in &redacted_messages {
        writeln!(
            redacted_debug,
            "impl std::fmt::Debug for {message} {{\n    \
             fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{\n        \
             f.write_str(\"{message}([redacted])\")\n    }}\n}}"
        )?;
    }
    fs::write(out_dir.join("redacted_debug.rs"), redacted_debug)?;

    builder
        // Maps in the order of their keys: messages are the same each time they are encoded.
        .btree_map(".turnkey.v1")
        .skip_debug(redacted_messages.iter().map(|message| format!("turnkey.v1.{message}")))
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(pool)
}

fn messages_to_redact(pool: &DescriptorPool) -> Vec<String> {
    pool.all_messages()
        .filter(|message| message.package_name() == "turnkey.v1")
        .filter(|message| {
            message.fields().any(|field| {
                let redact = field.options().get_field_by_name("debug_redact").and_then(|value| value.as_bool());
                redact == Some(true)
            })
        })
        .map(|message| message.name().to_owned())
        .collect()
}
