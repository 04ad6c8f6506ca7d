//! Generates the messages, clients and servers of the API, and finds the commit of the sources.

#[path = "crates/turnkey-client/codegen.rs"]
mod codegen;

use std::{env, error::Error, path::Path, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=crates/turnkey-client/codegen.rs");
    // The binary embeds the migrations.
    println!("cargo::rerun-if-changed=migrations");
    codegen::generate("proto", tonic_prost_build::configure())?;
    println!("cargo::rustc-env=TURNKEY_COMMIT={}", commit());
    Ok(())
}

/// Returns the commit for `turnkey --version`: that in the variable, which image builds set, or else that of the
/// checkout. Only optimized builds look at the checkout: others would compile the crate again after each commit.
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
