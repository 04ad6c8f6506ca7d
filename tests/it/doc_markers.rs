//! Writes what a run found into a page that people write.

use std::{fs, path::Path};

const BEGIN: &str = "<!-- written by a run -->\n";
const END: &str = "<!-- end -->\n";

/// In the place of what an earlier run wrote. `page` is a path from the project's root.
pub fn write_between_marks(page: &str, report: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("a page says where it wants its report");
    let (_, tail) = rest.split_once(END).expect("and where that ends");
    fs::write(path, format!("{head}{BEGIN}\n{}\n\n{END}{tail}", report.trim())).unwrap();
}
