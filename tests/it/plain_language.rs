//! The style of the texts as a test: comments, messages, test names and documents use plain technical English, as
//! CONTRIBUTING.md says. The test searches for words and phrases that do not belong there and reports each with its
//! file and line.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files and folders whose text is checked.
const CHECKED: [&str; 29] = [
    ".ci",
    ".github",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "Dockerfile",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benches",
    "buf.gen.yaml",
    "buf.yaml",
    "build.rs",
    "clients",
    "clippy.toml",
    "compose.yaml",
    "crates",
    "deny.toml",
    "deploy",
    "docs",
    "examples",
    "fuzz",
    "migrations",
    "proto",
    "rustfmt.toml",
    "scripts",
    "src",
    "tests",
];

/// Phrases in lower case, and what to write instead.
const FORBIDDEN: [(&str, &str); 39] = [
    ("whoever", "name the subject: the caller, the client, the operator"),
    ("whomever", "name the object: the caller, the client, the operator"),
    ("nobody", "no caller, no client, no process"),
    ("somebody", "a caller, a user"),
    ("anybody", "any caller, any user"),
    ("everybody", "all callers, every user"),
    ("told", "reported, returned, notified"),
    ("said", "reported, specified, sent"),
    ("heard", "received"),
    ("hears", "receives"),
    ("wish", "request, specification"),
    ("wishes", "requests, specifications"),
    ("mend", "repair"),
    ("mends", "repairs"),
    ("mended", "repaired"),
    ("mending", "repairing"),
    ("dear", "expensive"),
    ("dearer", "more expensive"),
    ("anew", "again"),
    ("afresh", "again"),
    ("oftener", "more often"),
    ("hang on", "depend on"),
    ("hangs on", "depends on"),
    ("of which", "split the sentence"),
    ("come to nothing", "fail, be closed"),
    ("comes to nothing", "fails, is closed"),
    ("came to nothing", "failed, was closed"),
    ("by hand", "manually, as a superuser"),
    ("by hands", "manually, as a superuser"),
    ("hands in psql", "a superuser in psql"),
    ("stand in", "are in"),
    ("stands in", "is in"),
    ("stands there", "exists, is in the file"),
    ("for ever", "forever, permanently"),
    ("for good", "permanently"),
    ("in vain", "without success"),
    ("without a word", "silently"),
    ("let in", "admitted, accepted"),
    ("lets in", "admits, accepts"),
];

/// Folders of `clients` and `fuzz` that builds and runs write.
const GENERATED: [&str; 5] = ["artifacts", "corpus", "dist", "gen", "node_modules"];

/// Legitimate uses: file, phrase, reason.
const EXEMPT: [(&str, &str, &str); 7] = [
    ("crates/embedded-postgres/src/error.rs", "nobody", "the Unix user"),
    ("crates/embedded-postgres/src/process.rs", "nobody", "the Unix user"),
    ("src/cli/adopt/report.rs", "mended", "a column of the report"),
    ("tests/it/support/adoption.rs", "mended", "a column of the report"),
    ("tests/it/pgbouncer.rs", "nobody", "the Unix user"),
    ("scripts/with-database", "nobody", "the Unix user"),
    ("tests/it/plain_language.rs", "", "the list itself"),
];

/// The text of a file that people read, as pairs of line number and text. An empty text separates texts that do not
/// belong together.
type Prose = Vec<(usize, String)>;

/// The line comments, string literals and function names of Rust or protobuf code.
fn code_prose(code: &str) -> Prose {
    let mut prose = Prose::new();
    // The delimiter that ends the current string literal.
    let mut string_end: Option<String> = None;
    for (line, text) in (1..).zip(code.lines()) {
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(end) = &string_end {
                let (content, after) = split_string(rest, end);
                prose.push((line, content.replace("\\n", " ")));
                if after.is_some() {
                    string_end = None;
                    prose.push((line, String::new()));
                }
                rest = after.unwrap_or_default();
            } else if let Some(comment) = rest.strip_prefix("//") {
                prose.push((line, comment.to_owned()));
                break;
            } else if let Some((end, content)) = string_start(rest) {
                prose.push((line, String::new()));
                string_end = Some(end);
                rest = content;
            } else if let Some(after) = after_char_literal(rest) {
                rest = after;
            } else if let Some(after) = rest.strip_prefix("fn ") {
                let name: String = after.chars().take_while(|&char| char.is_alphanumeric() || char == '_').collect();
                rest = &after[name.len()..];
                prose.extend([String::new(), name.replace('_', " "), String::new()].map(|text| (line, text)));
            } else {
                rest = after_first_char(rest);
            }
        }
    }
    prose
}

/// If `code` begins with a string literal, returns the delimiter that ends it and the code after the one that begins
/// it.
fn string_start(code: &str) -> Option<(String, &str)> {
    if let Some(content) = code.strip_prefix('"') {
        return Some(("\"".to_owned(), content));
    }
    let raw = code.strip_prefix('r')?;
    let content = raw.trim_start_matches('#');
    let hashes = raw.len() - content.len();
    Some((format!("\"{}", "#".repeat(hashes)), content.strip_prefix('"')?))
}

/// Splits the content of a string literal from the code behind it, which is `None` if the literal continues on the next
/// line.
fn split_string<'a>(content: &'a str, end: &str) -> (&'a str, Option<&'a str>) {
    let mut is_escaped = false;
    for (position, char) in content.char_indices() {
        let is_end = !is_escaped && content[position..].starts_with(end);
        if is_end {
            return (&content[..position], Some(&content[position + end.len()..]));
        }
        // Raw strings have no escapes, but none in this project has a backslash before its end.
        is_escaped = char == '\\' && !is_escaped;
    }
    (content, None)
}

/// The code behind a character literal, which may contain a quotation mark.
fn after_char_literal(code: &str) -> Option<&str> {
    let content = code.strip_prefix('\'')?;
    let after = after_first_char(content.strip_prefix('\\').unwrap_or(content));
    after.strip_prefix('\'')
}

fn after_first_char(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

/// The comments and string literals of SQL.
fn sql_prose(sql: &str) -> Prose {
    let text = |line: &str| match line.split_once("--") {
        Some((_, comment)) => comment.to_owned(),
        None => line.split('\'').skip(1).step_by(2).collect::<Vec<_>>().join("; "),
    };
    (1..).zip(sql.lines().map(text)).collect()
}

/// The text of Markdown without code blocks and code spans.
fn markdown_prose(markdown: &str) -> Prose {
    let mut is_in_fence = false;
    let mut prose = Prose::new();
    for (line, text) in (1..).zip(markdown.lines()) {
        if text.trim_start().starts_with("```") {
            is_in_fence = !is_in_fence;
            prose.push((line, String::new()));
        } else if !is_in_fence {
            prose.push((line, text.split('`').step_by(2).collect::<Vec<_>>().join("code")));
        }
    }
    prose
}

fn plain_prose(text: &str) -> Prose {
    (1..).zip(text.lines().map(str::to_owned)).collect()
}

/// The words of a text in lower case, with their lines. An empty word stands for punctuation, which no phrase spans.
fn words(prose: &Prose) -> Vec<(usize, String)> {
    let is_word_char = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-' | '@' | '\'' | '’');
    let mut words = Vec::new();
    for (line, text) in prose {
        if text.trim().is_empty() {
            words.push((*line, String::new()));
        }
        for part in text.split_inclusive(|char| !is_word_char(char)) {
            let word = part.trim_matches(|char: char| !char.is_alphanumeric()).to_lowercase();
            let word = word.strip_suffix("'s").or(word.strip_suffix("’s")).unwrap_or(&word);
            if !word.is_empty() {
                words.push((*line, word.to_owned()));
            }
            if part.ends_with(['.', ',', ';', ':', '!', '?', '(', ')']) {
                words.push((*line, String::new()));
            }
        }
    }
    words
}

/// The line and the index in [`FORBIDDEN`] of each forbidden phrase.
fn forbidden_phrases(prose: &Prose) -> Vec<(usize, usize)> {
    let words = words(prose);
    let mut found = Vec::new();
    for (index, (phrase, _)) in FORBIDDEN.iter().enumerate() {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        let matches = words.windows(phrase.len()).filter(|window| window.iter().map(|(_, word)| word).eq(&phrase));
        found.extend(matches.map(|window| (window[0].0, index)));
    }
    found
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| !GENERATED.iter().any(|name| path.ends_with(name))).flat_map(|path| files(&path)).collect()
}

fn prose(path: &Path) -> Prose {
    let name = path.file_name().unwrap().to_str().unwrap();
    let read: fn(&str) -> Prose = match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "go" | "proto" | "rs" | "ts" => code_prose,
        "sql" => sql_prose,
        "md" => markdown_prose,
        "" | "ci" | "json" | "py" | "sh" | "toml" | "yaml" | "yml" => plain_prose,
        // Plots, fuzz cases, lock files.
        _ => return Prose::new(),
    };
    read(&fs::read_to_string(path).unwrap())
}

#[test]
fn all_text_is_in_plain_technical_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut errors = Vec::new();
    for path in CHECKED.iter().flat_map(|path| files(&root.join(path))) {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        for (line, index) in forbidden_phrases(&prose(&path)) {
            let (phrase, instead) = FORBIDDEN[index];
            let is_exempt = |(file, exempt, _): &(&str, &str, &str)| *file == name && ["", phrase].contains(exempt);
            if !EXEMPT.iter().any(is_exempt) {
                errors.push(format!("{name}:{line}: \"{phrase}\" (better: {instead})"));
            }
        }
    }
    assert!(errors.is_empty(), "{} forbidden phrases:\n{}", errors.len(), errors.join("\n"));
}

#[test]
fn forbidden_phrases_are_found_in_comments_strings_and_names_and_not_in_code() {
    let lines = |prose: Prose| forbidden_phrases(&prose).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
    assert_eq!(
        lines(code_prose("let told = 1; // It was Told.\nlet x = \"Nobody's\";\n/// It hangs\n/// on it.")),
        [2, 1, 3]
    );
    assert_eq!(
        lines(code_prose("fn a_wish_is_told() {}\nlet quote = '\"'; let dear = 1; // dear\nr#\"said \"in vain\"\"#")),
        [1, 3, 1, 2, 3]
    );
    assert_eq!(lines(code_prose("// pk_live_nobody_1, nobody@example.com. It stands. In the end")), [0; 0]);
    assert_eq!(lines(markdown_prose("`nobody`\n```\nwhoever\n```\nWhoever")), [5]);
    assert_eq!(lines(sql_prose("SELECT told -- said\nRAISE 'by hand'")), [1, 2]);
}
