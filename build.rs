//! Compiles the protobuf API with protox, so that a build does not need protoc, and finds the commit of the sources.
//!
//! A message with a `debug_redact` field gets a `Debug` that shows no field, because the derived one would print the secret.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PROTO_ROOT: &str = "proto";
const PROTO_FILES: [&str; 2] = ["turnkey/v1/tenant_provisioning.proto", "turnkey/v1/package_catalog.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_ROOT}");
    // The binary embeds the migrations.
    println!("cargo::rerun-if-changed=migrations");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTO_FILES)?;
    // Reflection serves these descriptors, comments included.
    fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let redacted_messages = messages_to_redact(&compiler.descriptor_pool());
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

    tonic_prost_build::configure()
        .skip_debug(redacted_messages.iter().map(|message| format!("turnkey.v1.{message}")))
        .compile_fds(compiler.file_descriptor_set())?;
    println!("cargo::rustc-env=TURNKEY_COMMIT={}", commit());
    Ok(())
}

/// Returns the commit for `turnkey --version`: that in the variable, which image builds set, or else that of the checkout.
/// Only optimized builds look at the checkout: others would compile the crate again after each commit.
fn commit() -> String {
    const VARIABLE: &str = "TURNKEY_COMMIT";
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let given = env::var(VARIABLE).ok().filter(|commit| !commit.is_empty());
    given.or_else(checked_out_commit).unwrap_or_else(|| "unknown".to_owned())
}

fn checked_out_commit() -> Option<String> {
    // An archive of the sources can be inside another repository.
    if env::var("OPT_LEVEL").ok()? == "0" || !Path::new(".git").exists() {
        return None;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim_end().to_owned())
    };
    // The log of HEAD changes with each commit and each checkout.
    println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn messages_to_redact(pool: &protox::prost_reflect::DescriptorPool) -> Vec<String> {
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
