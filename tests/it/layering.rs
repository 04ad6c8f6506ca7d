//! The architecture as a test: it reads the sources and checks the layers, the use of libraries, the use of clock and
//! randomness, and that one file knows the defaults. The tables below are those of ARCHITECTURE.md.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each module of `src`, and the modules it may import.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("main", &["cli"]),
    ("lib", &[]),
    ("cli", &["config", "domain", "error", "grpc", "http", "secrets", "server", "service", "store", "telemetry"]),
    ("server", &["config", "domain", "error", "grpc", "http", "secrets", "service", "store", "telemetry"]),
    ("telemetry", &["config"]),
    ("config", &["domain", "error"]),
    ("http", &["grpc", "domain", "error"]),
    ("grpc", &["service", "domain", "error", "telemetry"]),
    ("service", &["store", "domain", "secrets", "error", "telemetry"]),
    ("store", &["domain", "error", "telemetry"]),
    ("secrets", &["domain", "error", "telemetry"]),
    ("error", &["domain"]),
];

/// Libraries, and the modules that may use them.
const LIBRARY_USED_ONLY_BY: [(&str, &[&str]); 23] = [
    ("tonic", &["grpc", "http", "server"]),
    ("prost", &["grpc", "http", "server"]),
    ("prost_types", &["grpc", "http"]),
    ("prost_reflect", &["http", "cli"]),
    ("turnkey_client", &["cli", "grpc"]),
    ("clap_complete", &["cli"]),
    ("rmcp", &["http"]),
    ("sqlx", &["store", "server", "cli", "config"]),
    ("embedded_postgres", &["cli"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_http", &["telemetry"]),
    ("opentelemetry_prometheus", &["telemetry"]),
    ("prometheus", &["telemetry"]),
    ("hyper_rustls", &["telemetry"]),
    ("rustls_native_certs", &["telemetry"]),
    ("tracing_opentelemetry", &["telemetry"]),
    ("deadpool", &["store"]),
    ("governor", &["grpc"]),
    ("argon2", &["secrets"]),
    ("rustls", &["server", "config", "telemetry"]),
    ("webpki", &["grpc", "server"]),
];

/// Clocks and sources of randomness, and the modules that may use them outside tests. Other modules get the time and
/// the random generator as parameters. `Instant` is for durations and timeouts.
const CLOCK_OR_RANDOMNESS_USED_ONLY_BY: [(&str, &[&str]); 7] = [
    ("OffsetDateTime::now", &["service"]),
    ("SystemTime", &[]),
    ("Instant::now", &["cli", "grpc", "server", "service", "store", "telemetry"]),
    ("SysRng", &["cli", "service"]),
    ("rand::rng(", &[]),
    ("rand::random(", &[]),
    ("Uuid::new_v4", &["cli", "grpc", "telemetry"]),
];

/// A file of `src`.
struct Source {
    /// The first part of its path, without the extension.
    module: String,
    path: PathBuf,
    /// The text without comment lines.
    code: String,
}

impl Source {
    /// The code without the module `tests` at the end of the file.
    fn code_without_tests(&self) -> &str {
        self.code.split("#[cfg(test)]\nmod tests").next().unwrap()
    }
}

fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path, extensions));
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|expected| extension == *expected)) {
            found.push(path);
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&src).unwrap().to_owned();
        let module = relative.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        Source { module, path: relative, code: without_comment_lines(&fs::read_to_string(&path).unwrap()) }
    };
    files(&src, &["rs", "sql"]).into_iter().map(read).collect()
}

fn without_comment_lines(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first name after every `crate::`, including those in braces.
fn imports(text: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String { text.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect() };
    let mut found = BTreeSet::new();
    for after in text.split("crate::").skip(1).chain(text.split("turnkey::").skip(1)) {
        let Some(group) = after.strip_prefix('{') else {
            found.insert(name(after));
            continue;
        };
        let mut depth = 0;
        let mut at_start = true;
        for (position, char) in group.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_start = true,
                _ if char.is_whitespace() => {}
                _ if at_start => {
                    found.insert(name(&group[position..]));
                    at_start = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Whether `text` contains `name` where it is not the end of a longer name.
fn contains_name(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(found, _)| {
        !text[..found].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

#[test]
fn imports_are_found_in_braces_and_paths() {
    let text = "use crate::{\n    domain::{Slug, ids::TenantId},\n    error::Result,\n};\nlet x = crate::store::Store;";
    assert_eq!(imports(text), ["domain", "error", "store"].map(str::to_owned).into());
}

#[test]
fn a_name_is_not_found_within_a_longer_one() {
    assert!(contains_name("use tonic::Code;", "tonic::") && !contains_name("use my_tonic::Code;", "tonic::"));
}

#[test]
fn every_module_imports_only_modules_below_it() {
    for Source { module, path, code } in sources() {
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, allowed)| allowed);
        for import in imports(&code) {
            let is_own = import == module;
            let is_module =
                root().join(format!("src/{import}.rs")).exists() || root().join("src").join(&import).exists();
            assert!(
                is_own || !is_module || allowed.contains(&import.as_str()),
                "src/{} may not import {import}",
                path.display()
            );
        }
    }
}

#[test]
fn libraries_are_used_only_by_their_modules() {
    for Source { module, path, code } in sources() {
        for (library, modules) in LIBRARY_USED_ONLY_BY {
            let is_used = code.contains(&format!("use {library};")) || contains_name(&code, &format!("{library}::"));
            assert!(!is_used || modules.contains(&module.as_str()), "src/{} may not use {library}", path.display());
        }
    }
}

#[test]
fn only_one_file_opens_files_for_writing() {
    for source in sources().iter().filter(|source| source.path != Path::new("cli/owned_file.rs")) {
        for name in ["OpenOptions", "File::create", "fs::write", "fs::copy", "set_permissions", "set_len"] {
            let is_used = contains_name(source.code_without_tests(), name);
            assert!(!is_used, "src/{} may not use {name}", source.path.display());
        }
    }
}

#[test]
fn clock_and_randomness_are_used_only_by_their_modules() {
    let mut violations = Vec::new();
    for source in sources() {
        for (name, modules) in CLOCK_OR_RANDOMNESS_USED_ONLY_BY {
            if contains_name(source.code_without_tests(), name) && !modules.contains(&source.module.as_str()) {
                violations.push(format!("src/{} may not use {name}", source.path.display()));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// Only the migration repeats the slug `general`, for its trigger.
#[test]
fn only_one_file_contains_the_defaults() {
    let sources = sources();
    let is_defaults = |source: &&Source| source.path == Path::new("domain/defaults.rs");
    let defaults = sources.iter().find(is_defaults).unwrap().code_without_tests();
    let fields = ["slug: \"", "name: \"", "hero_title: \"", "description: \""];
    let texts = defaults.lines().filter(|line| fields.iter().any(|field| line.trim_start().starts_with(field)));
    let texts: BTreeSet<&str> = texts.map(|line| line.split('"').nth(1).unwrap()).collect();
    assert!(texts.len() == 13 && texts.contains("general") && texts.contains("basic-package"), "{texts:?}");

    let forbidden: Vec<String> = texts
        .iter()
        .flat_map(|text| [format!("\"{text}\""), format!("'{text}'")])
        .chain(["from_hundredths(1_000)".to_owned()])
        .collect();
    for source in sources.iter().filter(|source| !is_defaults(source)) {
        for literal in &forbidden {
            // It replaces the trigger of the schema, which repeats the slug, too.
            let is_trigger = source.path == Path::new("store/citus.sql") && literal == "'general'";
            let is_found = source.code_without_tests().contains(literal.as_str()) && !is_trigger;
            assert!(!is_found, "src/{} contains the default {literal}", source.path.display());
        }
    }
}

/// Libraries of the server that a client must not bring along.
const NOT_FOR_CLIENTS: [&str; 6] = ["axum", "clap", "hyper", "prost-reflect", "rustls", "sqlx"];

#[test]
fn no_other_crate_of_the_workspace_depends_on_the_service() {
    for name in ["embedded-postgres", "turnkey-client"] {
        let folder = root().join("crates").join(name);
        let dependencies = dependencies(&folder);
        assert!(!dependencies.iter().any(|line| line.starts_with("turnkey ")), "{dependencies:?}");
        for path in files(&folder.join("src"), &["rs"]) {
            let code = without_comment_lines(&fs::read_to_string(&path).unwrap());
            assert!(!contains_name(&code, "turnkey::"), "{} uses the service", path.display());
        }
    }
}

#[test]
fn the_client_has_no_dependencies_of_a_server() {
    let dependencies = dependencies(&root().join("crates/turnkey-client"));
    for name in NOT_FOR_CLIENTS {
        let is_used = dependencies.iter().any(|line| line.split([' ', '.']).next() == Some(name));
        assert!(!is_used, "turnkey-client may not use {name}");
    }
    let tonic = dependencies.iter().find(|line| line.starts_with("tonic ")).unwrap();
    assert!(tonic.contains("default-features = false"), "{tonic}");
    for feature in ["router", "server", "transport"] {
        assert!(!tonic.contains(&format!("\"{feature}\"")), "{tonic}");
    }
}

/// The lines of the dependencies in a crate's manifest.
fn dependencies(folder: &Path) -> Vec<String> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]\n").nth(1).unwrap();
    section.lines().take_while(|line| !line.starts_with('[')).map(str::to_owned).collect()
}
