//! The order of the house: which part may know which.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each part of `src`, and the parts it may import.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("main", &["cli"]),
    ("lib", &[]),
    ("cli", &["config", "domain", "error", "grpc", "secrets", "server", "service", "store", "telemetry"]),
    ("server", &["config", "domain", "error", "grpc", "secrets", "service", "store", "telemetry"]),
    ("telemetry", &["config"]),
    ("config", &["domain", "error"]),
    ("grpc", &["service", "domain", "error", "telemetry"]),
    ("service", &["store", "domain", "secrets", "error", "telemetry"]),
    ("store", &["domain", "error", "telemetry"]),
    ("secrets", &["domain", "error", "telemetry"]),
    ("error", &["domain"]),
];

/// Libraries that only some parts may know.
const KNOWN_ONLY_BY: [(&str, &[&str]); 14] = [
    ("tonic", &["grpc", "server"]),
    ("prost", &["grpc", "server"]),
    ("prost_types", &["grpc"]),
    ("sqlx", &["store", "server", "cli", "config"]),
    ("embedded_postgres", &["cli"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("tracing_opentelemetry", &["telemetry"]),
    ("deadpool", &["store"]),
    ("governor", &["grpc"]),
    ("argon2", &["secrets"]),
    ("rustls", &["server"]),
    ("webpki", &["grpc"]),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), found);
            } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
                found.push(entry.path());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).unwrap().to_owned();
            let part = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
            let text = fs::read_to_string(&path).unwrap();
            (part, inside, code(&text))
        })
        .collect()
}

/// The text without its comments.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first names after every `crate::`, the ones in braces included.
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
        for (position, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_start = true,
                _ if letter.is_whitespace() => {}
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

#[test]
fn imports_are_read_out_of_braces_and_paths() {
    let text = "use crate::{\n    domain::{Slug, ids::TenantId},\n    error::Result,\n};\nlet x = crate::store::Store;";
    assert_eq!(imports(text), ["domain", "error", "store"].map(str::to_owned).into());
}

#[test]
fn every_part_imports_only_what_lies_below_it() {
    for (part, path, text) in sources() {
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == part).map_or(&[][..], |(_, allowed)| allowed);
        for import in imports(&text) {
            let is_own = import == part;
            let is_module =
                fs::exists(format!("src/{import}.rs")).unwrap() || fs::exists(format!("src/{import}")).unwrap();
            assert!(
                is_own || !is_module || allowed.contains(&import.as_str()),
                "{} may not import {import}",
                path.display()
            );
        }
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    for (part, path, text) in sources() {
        for (library, parts) in KNOWN_ONLY_BY {
            let begins_a_longer_name = |found: usize| {
                text[..found].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
            };
            let used = text.contains(&format!("use {library};"))
                || text.match_indices(&format!("{library}::")).any(|(found, _)| !begins_a_longer_name(found));
            assert!(!used || parts.contains(&part.as_str()), "{} may not know {library}", path.display());
        }
    }
}

#[test]
fn only_one_file_knows_the_defaults() {
    for (_, path, text) in sources() {
        if path != Path::new("domain/defaults.rs") {
            for text_of_defaults in ["basic-package", "Basic Package", "Our Services", "from_hundredths(1_000)"] {
                assert!(!text.contains(text_of_defaults), "{} knows {text_of_defaults:?}", path.display());
            }
        }
    }
}
