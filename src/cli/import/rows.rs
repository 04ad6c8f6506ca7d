//! The file of tenants: read, and judged as a whole.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use csv::{ReaderBuilder, StringRecord, Trim};

use super::{Error, journal::Journal};
use crate::domain::{
    CommissionPercent, CreateFullyProvisioned, DisplayName, InvalidValue, Reason, TenantSlug, Violations, defaults,
};

const SLUG: &str = "slug";
const NAME: &str = "name";
const COMMISSION: &str = "commission_percent";

/// A tenant to be made.
pub struct Row {
    pub line: u64,
    pub slug: TenantSlug,
    name: DisplayName,
    commission: CommissionPercent,
}

pub struct Rows {
    pub valid: Vec<Row>,
    /// A line for each that cannot be imported, saying where it is and why.
    pub errors: Vec<String>,
}

impl Row {
    pub fn to_request(&self, journal: &Journal) -> Result<CreateFullyProvisioned, Error> {
        Ok(CreateFullyProvisioned {
            slug: self.slug.clone(),
            name: self.name.clone(),
            commission: self.commission,
            request_id: Some(journal.request_id(self.slug.as_str())?),
            validate_only: false,
        })
    }
}

pub fn read(path: &Path) -> Result<Rows, Error> {
    read_from(File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?)
}

/// Columns in any order: `slug`, `name`, and `commission_percent` if some have another than the default.
///
/// # Errors
/// Where there is no row of names, or not the right one; what is wrong further down is among the bad rows.
pub fn read_from(mut file: impl Read) -> Result<Rows, Error> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text.as_slice());
    let columns = Columns::find(reader.headers()?)?;
    let mut rows = Rows { valid: Vec::new(), errors: Vec::new() };
    let mut seen: HashMap<TenantSlug, u64> = HashMap::new();
    let mut record = StringRecord::new();
    loop {
        let line = first_line(&text, reader.position());
        let read = reader.read_record(&mut record);
        let last = last_line(&text, reader.position());
        match read {
            Ok(false) => return Ok(rows),
            Ok(true) => match columns.parse(&record, line, &seen) {
                Ok(row) => {
                    seen.insert(row.slug.clone(), line);
                    rows.valid.push(row);
                }
                Err(violations) => {
                    let messages = violations.as_slice().iter();
                    let messages =
                        messages.map(|violation| format!("{} {}", violation.field, violation.invalid.description));
                    rows.errors.push(format!(
                        "{}: {}",
                        line_range(line, last),
                        messages.collect::<Vec<_>>().join("; ")
                    ));
                }
            },
            Err(error) => rows.errors.push(format!("{}: {}", line_range(line, last), csv_error_message(&error))),
        }
    }
}

/// The line on which the next record begins: the reader's place is before the line ends that it will pass over, be they
/// empty lines or what is left of `\r\n`.
fn first_line(text: &[u8], position: &csv::Position) -> u64 {
    let (_, rest) = split(text, position);
    let passed = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n');
    position.line() + passed.count() as u64
}

/// The line on which the record before ends.
fn last_line(text: &[u8], position: &csv::Position) -> u64 {
    let (read, _) = split(text, position);
    position.line() - u64::from(read.ends_with(b"\n"))
}

fn split<'a>(text: &'a [u8], position: &csv::Position) -> (&'a [u8], &'a [u8]) {
    let length = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    text.split_at(length.min(text.len()))
}

/// A row of many lines may have swallowed others, by a quote that nobody closed.
fn line_range(first: u64, last: u64) -> String {
    if first < last { format!("lines {first} to {last}") } else { format!("line {first}") }
}

fn csv_error_message(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} fields, and the first line {expected_len}")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("is not UTF-8 in field {}", err.field() + 1),
        _ => error.to_string(),
    }
}

struct Columns {
    slug: usize,
    name: usize,
    commission: Option<usize>,
}

impl Columns {
    fn find(headers: &StringRecord) -> Result<Self, Error> {
        if let Some(unknown) = headers.iter().find(|header| ![SLUG, NAME, COMMISSION].contains(header)) {
            return Err(format!("there is no column {unknown:?}: {SLUG}, {NAME} and {COMMISSION} are known").into());
        }
        let position = |name| headers.iter().position(|header| header == name);
        let needed = |name| position(name).ok_or_else(|| format!("the column {name} is missing"));
        Ok(Self { slug: needed(SLUG)?, name: needed(NAME)?, commission: position(COMMISSION) })
    }

    fn parse(&self, record: &StringRecord, line: u64, seen: &HashMap<TenantSlug, u64>) -> Result<Row, Violations> {
        let field = |index: usize| record.get(index).unwrap_or_default();
        let mut fields = Violations::default();
        let slug = fields.check(SLUG, TenantSlug::parse(field(self.slug)));
        let name = fields.check(NAME, DisplayName::parse(field(self.name)));
        let commission = self.commission.map(field).filter(|text| !text.is_empty());
        let commission = fields.check_optional(COMMISSION, commission, |text| {
            let percent = text.parse().map_err(|_unfit| InvalidValue::new(Reason::BadFormat, "must be a number"))?;
            CommissionPercent::parse(percent)
        });
        if let Some(first) = slug.as_ref().and_then(|slug| seen.get(slug)) {
            fields.add(SLUG, InvalidValue::new(Reason::BadFormat, format!("is that of line {first}")));
        }
        fields.into_result(|| {
            let commission = commission.unwrap_or(defaults::COMMISSION);
            Some(Row { line, slug: slug?, name: name?, commission })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> Result<Rows, Error> {
        read_from(text)
    }

    fn slugs(rows: &Rows) -> Vec<&str> {
        rows.valid.iter().map(|row| row.slug.as_str()).collect()
    }

    #[test]
    fn quotes_byte_order_marks_line_ends_and_the_order_of_columns_are_no_matter() {
        let rows = read_text(
            "\u{feff}name,commission_percent,slug\r\n\"Bella, \"\"Weddings\"\"\",12.34,bella\r\nÖmer's,,omers\r\n"
                .as_bytes(),
        )
        .unwrap();
        assert_eq!((slugs(&rows), rows.errors.len()), (vec!["bella", "omers"], 0));
        assert_eq!(
            (rows.valid[0].name.as_str(), rows.valid[0].commission.hundredths()),
            ("Bella, \"Weddings\"", 1_234)
        );
        assert_eq!(rows.valid[1].commission, defaults::COMMISSION);
        assert_eq!(slugs(&read_text(b"slug,name\nbella,Bella\n\nomer,Omer").unwrap()), ["bella", "omer"]);
    }

    #[test]
    fn every_bad_row_is_named_with_its_line_and_reasons() {
        let rows = read_text(
            b"slug,name,commission_percent\nbella,Bella,10\nadmin,,ten\nbella,Again,\nomer,Omer,101\nomer,Omer,\nx,y\n\xff,z,1\n",
        )
        .unwrap();
        assert_eq!(slugs(&rows), ["bella", "omer"], "a bad row has no claim on its slug");
        let expected = [
            "line 3: slug is reserved for the platform; name is required; commission_percent must be a number",
            "line 4: slug is that of line 2",
            "line 5: commission_percent must be between 0 and 100",
            "line 7: has 2 fields, and the first line 3",
            "line 8: is not UTF-8 in field 1",
        ];
        assert_eq!(rows.errors, expected);
    }

    #[test]
    fn lines_are_counted_whatever_they_end_with_and_empty_or_quoted_ones_too() {
        for end in ["\n", "\r\n"] {
            let text = ["slug,name", "", "bella,Bella", "admin,\"A", "B\"", "omer,Omer", "bella,C", "x"].join(end);
            let rows = read_text(text.as_bytes()).unwrap();
            assert_eq!(rows.valid.iter().map(|row| row.line).collect::<Vec<_>>(), [3, 6], "{end:?}");
            let [reserved, again, short] = rows.errors.try_into().unwrap();
            assert!(reserved.starts_with("lines 4 to 5: slug is reserved"), "{reserved}");
            assert_eq!(
                (again.as_str(), short.as_str()),
                ("line 7: slug is that of line 3", "line 8: has 1 fields, and the first line 2",)
            );
        }
        let swallowed = read_text(b"slug,name\nbella,Bella\nomer,\"Omer\nzoe,Zoe,\nmax,Max,\n").unwrap();
        assert_eq!(slugs(&swallowed), ["bella"]);
        assert!(swallowed.errors[0].starts_with("lines 3 to 5: "), "{}", swallowed.errors[0]);
    }

    #[test]
    fn a_missing_or_mistyped_column_is_named() {
        for (header, messages) in
            [("slug", "name is missing"), ("slug,name,commision", "\"commision\""), ("", "slug is missing")]
        {
            let Err(error) = read_text(header.as_bytes()) else { panic!("{header}") };
            assert!(error.to_string().contains(messages), "{error}");
        }
    }
}
