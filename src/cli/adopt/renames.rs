//! New slugs for tenants whose old one the rules refuse: a CSV file with the columns `old_slug,new_slug`.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Read,
    path::Path,
};

use csv::{ReaderBuilder, Trim};

use crate::{cli::Error, domain::TenantSlug};

const HEADER: [&str; 2] = ["old_slug", "new_slug"];

#[derive(Default)]
pub struct Renames {
    by_old_slug: HashMap<String, TenantSlug>,
}

impl Renames {
    /// # Errors
    /// All invalid lines together.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::read_from(file).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// # Errors
    /// All invalid lines together.
    pub fn read_from(file: impl Read) -> Result<Self, Error> {
        let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(file);
        if !reader.headers()?.iter().eq(HEADER) {
            return Err(format!("the first line must be {}", HEADER.join(",")).into());
        }
        let (mut renames, mut new_slugs, mut errors) = (Self::default(), HashSet::new(), Vec::new());
        for record in reader.records() {
            let record = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let (old, new) = (record.get(0).unwrap_or_default(), record.get(1).unwrap_or_default());
            match TenantSlug::parse(new) {
                Err(invalid) => errors.push(format!("line {line}: new_slug {}", invalid.description)),
                Ok(_) if renames.by_old_slug.contains_key(old) => {
                    errors.push(format!("line {line}: old_slug occurs twice"));
                }
                Ok(new) if !new_slugs.insert(new.clone()) => errors.push(format!("line {line}: {new} occurs twice")),
                Ok(new) => {
                    renames.by_old_slug.insert(old.to_owned(), new);
                }
            }
        }
        if errors.is_empty() { Ok(renames) } else { Err(errors.join("; ").into()) }
    }

    pub fn new_slug(&self, old_slug: &str) -> Option<&TenantSlug> {
        self.by_old_slug.get(old_slug)
    }

    pub fn old_slugs(&self) -> HashSet<&str> {
        self.by_old_slug.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match Renames::read_from(text.as_bytes()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{text:?} was accepted"),
        }
    }

    #[test]
    fn a_file_of_renames_has_a_new_slug_for_each_old_one() {
        let text = "\u{feff}old_slug,new_slug\r\nbella--w, bella-w\r\nadmin,admin-studio\r\n";
        let renames = Renames::read_from(text.as_bytes()).unwrap();
        assert_eq!(renames.new_slug("bella--w").unwrap().as_str(), "bella-w");
        assert_eq!(renames.new_slug("omers"), None);
    }

    #[test]
    fn all_invalid_lines_are_reported_together() {
        assert_eq!(refusal("old,new\n"), "the first line must be old_slug,new_slug");
        let text = "old_slug,new_slug\na--b,a-b\na--b,a-c\nc--d,a-b\ne--f,admin\n";
        let expected = "line 3: old_slug occurs twice; line 4: a-b occurs twice; \
                        line 5: new_slug is reserved for the platform";
        assert_eq!(refusal(text), expected);
        assert!(refusal("old_slug,new_slug\na--b\n").contains("line: 2"));
    }
}
