//! Writes the results of a run into a document, between two marker comments.

use std::{fs, path::Path};

const BEGIN: &str = "<!-- written by a run -->\n";
const END: &str = "<!-- end -->\n";

/// Replaces the report of the previous run. `document` is a path relative to the repository root.
pub fn write_between_marks(document: &str, report: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the document has a begin marker");
    let (_, tail) = rest.split_once(END).expect("the document has an end marker");
    fs::write(path, format!("{head}{BEGIN}\n{}\n\n{END}{tail}", report.trim())).unwrap();
}
