//! The report of an adoption: a CSV file with a line for each tenant of the old database, and a summary.
//!
//! The file is written from the beginning in each run. It needs nothing of an earlier one, because the new database has
//! what was adopted.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
};

use crate::{
    cli::{
        Error, counted,
        output::print_message,
        owned_file::{AppendableFile, ExistingFile, PRIVATE},
    },
    domain::{TenantId, adoption::Problem},
};

const HEADER: &str = "old_id,slug,tenant_id,status,mended,problems";
/// Problems of one kind that tenants have in common are counted together; further kinds are in the file only.
const MAX_KINDS: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum Status {
    Adopted,
    AlreadyAdopted,
    WouldAdopt,
    Refused,
}

/// What became of a tenant.
pub struct Entry {
    pub old_id: String,
    /// The new slug, or the old one if the tenant is refused.
    pub slug: String,
    pub tenant_id: Option<TenantId>,
    pub status: Status,
    pub repairs: Vec<String>,
    pub problems: Vec<Problem>,
}

/// A file that has been recognized as a report, or that does not exist yet.
pub struct RecognizedReport {
    path: PathBuf,
    existing: Option<ExistingFile>,
}

pub struct Report {
    file: AppendableFile,
    pub counts: Counts,
}

#[derive(Default)]
pub struct Counts {
    adopted: u64,
    already_adopted: u64,
    would_adopt: u64,
    pub refused: u64,
    repaired: u64,
    /// By column and class.
    problems: BTreeMap<(String, String), u64>,
}

impl RecognizedReport {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut existing = ExistingFile::open(path)?;
        if let Some(file) = &mut existing {
            let start = file.read(HEADER.len() as u64 + 1)?;
            let is_report = start.is_empty() || start.strip_prefix(HEADER.as_bytes()) == Some(b"\n");
            if !is_report {
                let path = path.display();
                return Err(format!("{path} is not a report of adopt: its first line is not {HEADER:?}").into());
            }
        }
        Ok(Self { path: path.to_owned(), existing })
    }

    /// Creates the file, or empties it.
    pub fn open(self) -> Result<Report, Error> {
        let header = format!("{HEADER}\n");
        let file = match self.existing {
            None => AppendableFile::create(&self.path, PRIVATE, header.as_bytes())?,
            Some(existing) => {
                let mut file = existing.into_appendable()?;
                file.truncate(0)?;
                file.append(header.as_bytes())?;
                file
            }
        };
        Ok(Report { file, counts: Counts::default() })
    }
}

impl Report {
    /// Begins the report again.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.file.truncate(HEADER.len() as u64 + 1)?;
        self.counts = Counts::default();
        Ok(())
    }

    /// Appends the lines of these tenants.
    pub fn write(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let mut lines = csv::Writer::from_writer(Vec::new());
        for Entry { old_id, slug, tenant_id, status, repairs, problems } in entries {
            let tenant_id = tenant_id.map(|id| id.to_string()).unwrap_or_default();
            lines.write_record([old_id, slug, &tenant_id, &status.to_string(), &joined(repairs), &joined(problems)])?;
        }
        let lines = lines.into_inner().map_err(csv::IntoInnerError::into_error)?;
        self.file.append(&lines)?;
        for entry in entries {
            self.counts.add(entry);
        }
        Ok(())
    }

    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync()
    }
}

fn joined(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        let count = match entry.status {
            Status::Adopted => &mut self.adopted,
            Status::AlreadyAdopted => &mut self.already_adopted,
            Status::WouldAdopt => &mut self.would_adopt,
            Status::Refused => &mut self.refused,
        };
        *count += 1;
        self.repaired +=
            u64::from(matches!(entry.status, Status::Adopted | Status::WouldAdopt) && !entry.repairs.is_empty());
        for Problem { field, class, .. } in &entry.problems {
            // Without the id of a row.
            let column = field.split_once('[').map_or_else(
                || field.clone(),
                |(table, rest)| format!("{table}{}", rest.split_once(']').map_or("", |(_id, column)| column)),
            );
            *self.problems.entry((column, class.clone())).or_default() += 1;
        }
    }

    /// Prints how many tenants have each status, and how many problems of each kind there are.
    pub fn print(&self, path: &Path) {
        let Self { adopted, already_adopted, would_adopt, refused, repaired, problems } = self;
        let total = counted(adopted + already_adopted + would_adopt + refused, "tenant");
        let (valid, verb) = if *would_adopt > 0 { (would_adopt, "could be adopted") } else { (adopted, "adopted") };
        print_message(format_args!(
            "{total}: {valid} {verb} ({repaired} with repairs), {already_adopted} already adopted, {refused} refused. \
             {} has a line for each",
            path.display(),
        ));
        for ((column, class), count) in problems.iter().take(MAX_KINDS) {
            print_message(format_args!("  {column} {class}: {count}"));
        }
        if problems.len() > MAX_KINDS {
            print_message("  and others");
        }
    }
}
