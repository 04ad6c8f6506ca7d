//! The journal of an import: the request id of every row. It is beside the keys file and as secret as that: for 24 hours
//! its ids can be used to obtain the keys, and later together with a dump of the database from within those hours.
//!
//! Which rows are done is not here but in the keys file.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{Error, rows::Row};
use crate::{
    cli::keys_file::{open_exclusive, read_complete_lines},
    domain::RequestId,
};

const FORMAT_HEADER: &str = "turnkey import journal 1";

pub struct Journal {
    request_ids: HashMap<String, String>,
    /// Locked while the import runs.
    _file: File,
}

impl Journal {
    /// Opens or creates the journal of the import into `out`, and adds an id for every row that has none.
    ///
    /// The journal names its kind of target, because request ids are scoped to the caller: a server would not find those of
    /// an import into its database.
    pub fn open(out: &Path, target: &str, rows: &[Row]) -> Result<Self, Error> {
        let path = journal_path(out);
        let mut file = open_exclusive(&path)?;
        let text = read_complete_lines(&mut file)?;
        if text.is_empty() && out.exists() {
            let (out, path) = (out.display(), path.display());
            return Err(format!("cannot continue {out} without its journal {path}; choose another --out file").into());
        }
        let header = format!("{FORMAT_HEADER} {target}");
        let mut lines = text.lines();
        if lines.next().is_some_and(|first| first != header) {
            let (path, remedy) = (path.display(), "choose another --out file");
            return Err(format!("{path} belongs to another import: its first line is not {header:?}; {remedy}").into());
        }
        let split = |line: &str| line.split_once(',').map(|(slug, id)| (slug.to_owned(), id.to_owned()));
        let mut request_ids: HashMap<String, String> = lines.filter_map(split).collect();

        let mut added = if text.is_empty() { format!("{header}\n") } else { String::new() };
        for row in rows {
            let slug = row.slug.as_str();
            if !request_ids.contains_key(slug) {
                let id = uuid::Uuid::new_v4().to_string();
                added.extend([slug, ",", &id, "\n"]);
                request_ids.insert(slug.to_owned(), id);
            }
        }
        file.write_all(added.as_bytes())?;
        file.sync_all()?;
        Ok(Self { request_ids, _file: file })
    }

    pub fn request_id(&self, slug: &str) -> Result<RequestId, Error> {
        let id = self.request_ids.get(slug).ok_or_else(|| format!("the journal has no request id for {slug}"))?;
        RequestId::parse(id)
            .map_err(|invalid| format!("the journal's request id for {slug} {}", invalid.description).into())
    }
}

fn journal_path(out: &Path) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(".journal");
    path.into()
}
