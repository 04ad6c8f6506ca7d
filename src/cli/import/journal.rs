//! The journal: which request id belongs to which row. It lies beside the keys' file, and is as secret: for 24 hours its
//! ids bring the keys back.

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
    /// Nobody else's for as long as the import goes on.
    _file: File,
}

impl Journal {
    /// Opens the journal of an import into `out`, or begins one, and adds an id for every row that has none.
    ///
    /// Request ids count for their caller: those of an import into a database are nothing to a server.
    pub fn open(out: &Path, target: &str, rows: &[Row]) -> Result<Self, Error> {
        let path = journal_path(out);
        let mut file = open_exclusive(&path)?;
        let text = read_complete_lines(&mut file)?;
        if text.is_empty() && out.exists() {
            return Err(format!("{} exists, and is of no import that could go on", out.display()).into());
        }
        let head = format!("{FORMAT_HEADER} {target}");
        let mut lines = text.lines();
        if lines.next().is_some_and(|first| first != head) {
            return Err(format!("{} is of another import: it does not begin with {head:?}", path.display()).into());
        }
        let split = |line: &str| line.split_once(',').map(|(slug, id)| (slug.to_owned(), id.to_owned()));
        let mut request_ids: HashMap<String, String> = lines.filter_map(split).collect();

        let mut added = if text.is_empty() { format!("{head}\n") } else { String::new() };
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
        let id = self.request_ids.get(slug).ok_or_else(|| format!("the journal has no id for {slug}"))?;
        RequestId::parse(id).map_err(|why| format!("the journal's id for {slug} {}", why.description).into())
    }
}

fn journal_path(out: &Path) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(".journal");
    path.into()
}
