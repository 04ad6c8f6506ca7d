//! Reads and checks the CSV file of an import. The whole file is checked before anything is imported.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
};

use csv::{ReaderBuilder, StringRecord, Trim};

use super::{Error, journal::Journal, quotes};
use crate::{
    cli::counted,
    config::ImportInput,
    domain::{
        CommissionPercent, CreateFullyProvisioned, DisplayName, InvalidValue, Labels, Reason, TenantSlug, Violations,
        defaults,
    },
};

/// Some 1.5 million rows. All rows are in memory, so that nothing is imported from a file with invalid ones.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

const SLUG: &str = "slug";
const NAME: &str = "name";
const COMMISSION: &str = "commission_percent";

/// A tenant to create.
pub struct Row {
    /// Where the row begins.
    pub line: u64,
    pub slug: TenantSlug,
    name: DisplayName,
    commission: CommissionPercent,
}

pub struct Rows {
    pub valid: Vec<Row>,
    /// A message for each invalid row, with its lines and all its violations.
    pub errors: Vec<String>,
}

impl Row {
    pub fn to_request(&self, journal: &Journal) -> Result<CreateFullyProvisioned, Error> {
        Ok(CreateFullyProvisioned {
            slug: self.slug.clone(),
            name: self.name.clone(),
            commission: self.commission,
            external_id: None,
            labels: Labels::default(),
            request_id: Some(journal.request_id(self.slug.as_str())?),
            validate_only: false,
        })
    }
}

/// Reads the input. Errors name it.
pub fn read(input: &ImportInput) -> Result<Rows, Error> {
    let rows = match input {
        ImportInput::File(path) => {
            let cannot_read = |error: io::Error| format!("cannot read {}: {error}", path.display());
            read_from(File::open(path).map_err(cannot_read)?)
        }
        ImportInput::Stdin => read_from(io::stdin().lock()),
    };
    rows.map_err(|error| format!("{input}: {error}").into())
}

/// Reads the columns `slug`, `name` and optionally `commission_percent`, in any order.
///
/// # Errors
/// If the header is missing or invalid, if the quotes of the file violate the rules, or if it is not UTF-8 but UTF-16.
/// Invalid rows are in [`Rows::errors`].
pub fn read_from(file: impl Read) -> Result<Rows, Error> {
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {} MiB: split it", MAX_BYTES / 1024 / 1024).into());
    }
    if is_utf16(&text) {
        return Err("is in UTF-16: save it as UTF-8, in Excel as \"CSV UTF-8\"".into());
    }
    quotes::check(&text)?;
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text.as_slice());
    let columns = Columns::find(reader.headers()?)?;
    let mut rows = Rows { valid: Vec::new(), errors: Vec::new() };
    let mut seen: HashMap<TenantSlug, u64> = HashMap::new();
    let mut record = StringRecord::new();
    loop {
        let first = first_line(&text, reader.position());
        let parsed = match reader.read_record(&mut record) {
            Ok(false) => return Ok(rows),
            Ok(true) => columns.parse(&record, first, &seen).map_err(|violations| violations_message(&violations)),
            Err(error) => Err(csv_error_message(&error)),
        };
        match parsed {
            Ok(row) => {
                seen.insert(row.slug.clone(), first);
                rows.valid.push(row);
            }
            Err(message) => {
                let lines = line_range(first, last_line(&text, reader.position()));
                rows.errors.push(format!("{lines}: {message}"));
            }
        }
    }
}

/// Whether the text begins with a byte order mark of UTF-16, or its first character has a zero byte.
fn is_utf16(text: &[u8]) -> bool {
    matches!(text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..])
}

/// Returns the line on which the next record starts. The reader's position precedes the line terminators that it is
/// about to skip: empty lines, or the rest of `\r\n`.
fn first_line(text: &[u8], position: &csv::Position) -> u64 {
    let (_, rest) = split(text, position);
    let skipped = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n');
    position.line() + skipped.count() as u64
}

/// Returns the line on which the previous record ends.
fn last_line(text: &[u8], position: &csv::Position) -> u64 {
    let (read, _) = split(text, position);
    position.line() - u64::from(read.ends_with(b"\n"))
}

fn split<'a>(text: &'a [u8], position: &csv::Position) -> (&'a [u8], &'a [u8]) {
    let length = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    text.split_at(length.min(text.len()))
}

/// Shows which lines a row with line breaks in quotes has.
fn line_range(first: u64, last: u64) -> String {
    if first < last { format!("lines {first} to {last}") } else { format!("line {first}") }
}

fn violations_message(violations: &Violations) -> String {
    let messages = violations.as_slice().iter();
    messages
        .map(|violation| format!("{} {}", violation.field, violation.invalid.description))
        .collect::<Vec<_>>()
        .join("; ")
}

fn csv_error_message(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {}, but the header has {expected_len}", counted(*len, "field"))
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
            let expected = format!("expected {SLUG}, {NAME} and optionally {COMMISSION}");
            return Err(format!("unknown column {unknown:?}: {expected}").into());
        }
        if let Some(repeated) = [SLUG, NAME, COMMISSION].into_iter().find(|name| count(headers, name) > 1) {
            return Err(format!("the column {repeated} occurs {} times", count(headers, repeated)).into());
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
            fields.add(SLUG, InvalidValue::new(Reason::BadFormat, format!("is already in line {first}")));
        }
        fields.into_result(|| {
            let commission = commission.unwrap_or(defaults::COMMISSION);
            Some(Row { line, slug: slug?, name: name?, commission })
        })
    }
}

fn count(headers: &StringRecord, name: &str) -> usize {
    headers.iter().filter(|header| *header == name).count()
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
    fn quotes_a_byte_order_mark_crlf_and_any_column_order_are_accepted() {
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
    fn every_invalid_row_is_reported_with_its_line_and_all_violations() {
        let rows = read_text(
            b"slug,name,commission_percent\nbella,Bella,10\nadmin,,ten\nbella,Again,\nomer,Omer,101\nomer,Omer,\nx,y\n\xff,z,1\n",
        )
        .unwrap();
        assert_eq!(slugs(&rows), ["bella", "omer"], "an invalid row does not reserve its slug");
        let expected = [
            "line 3: slug is reserved for the platform; name is required; commission_percent must be a number",
            "line 4: slug is already in line 2",
            "line 5: commission_percent must be between 0 and 100",
            "line 7: has 2 fields, but the header has 3",
            "line 8: is not UTF-8 in field 1",
        ];
        assert_eq!(rows.errors, expected);
    }

    #[test]
    fn line_numbers_count_crlf_empty_lines_and_quoted_line_breaks() {
        for end in ["\n", "\r\n"] {
            let text = ["slug,name", "", "bella,Bella", "admin,\"A", "B\"", "omer,Omer", "bella,C", "x"].join(end);
            let rows = read_text(text.as_bytes()).unwrap();
            assert_eq!(rows.valid.iter().map(|row| row.line).collect::<Vec<_>>(), [3, 6], "{end:?}");
            let [reserved, duplicate, short] = rows.errors.try_into().unwrap();
            assert!(reserved.starts_with("lines 4 to 5: slug is reserved"), "{reserved}");
            assert_eq!(
                (duplicate.as_str(), short.as_str()),
                ("line 7: slug is already in line 3", "line 8: has 1 field, but the header has 2")
            );
        }
    }

    fn refusal(text: &[u8]) -> String {
        match read_text(text) {
            Err(error) => error.to_string(),
            Ok(rows) => panic!("{:?} was read as {:?}", String::from_utf8_lossy(text), slugs(&rows)),
        }
    }

    #[test]
    fn a_file_with_a_stray_quote_is_refused_whole() {
        let message = refusal(b"slug,name\nbella,Bella\nomer,\"Omer\nzoe,Zoe,\nmax,Max,\n");
        assert!(message.starts_with("line 3: "), "{message}");
        let mut rows = "slug,name\nbella,\"Bella\n".to_owned();
        rows.extend((0..291).map(|number| format!("tenant-{number},Tenant {number}\n")));
        assert!(refusal(rows.as_bytes()).starts_with("line 2: "));
        rows.push_str("omer,\"Omer, Inc.\"\n");
        assert!(refusal(rows.as_bytes()).starts_with("lines 2 to 294: "));
    }

    #[test]
    fn a_file_in_utf_16_is_refused_with_advice() {
        let text = "slug,name\nbella,Bella\n";
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let with_mark = |mark: &[u8], text: &[u8]| [mark, text].concat();
        for text in [with_mark(b"\xff\xfe", &little), with_mark(b"\xfe\xff", &big), little, big] {
            assert!(refusal(&text).contains("save it as UTF-8"));
        }
    }

    #[test]
    fn a_file_that_never_ends_is_refused() {
        let Err(error) = read_from(io::repeat(b'a')) else { panic!("it has no end") };
        assert!(error.to_string().contains("larger than 64 MiB"), "{error}");
    }

    #[test]
    fn a_missing_misspelled_or_repeated_column_is_reported() {
        for (header, message) in [
            ("slug", "name is missing"),
            ("slug,name,commision", "\"commision\""),
            ("", "slug is missing"),
            ("slug,name,name\nbella,Bella,Other", "the column name occurs 2 times"),
            ("slug,slug,name", "the column slug occurs 2 times"),
            ("slug,name, name ", "the column name occurs 2 times"),
        ] {
            let Err(error) = read_text(header.as_bytes()) else { panic!("{header}") };
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
