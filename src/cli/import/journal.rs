//! The journal of an import: the request id of every row. It is beside the keys file and as secret as that: for 24 hours
//! its ids can be used to obtain the keys, and later together with a dump of the database from within those hours.
//!
//! Which rows are done is not here but in the keys file. A line is `slug,id`, or `slug,id,rotation` for the rotation of
//! a key whose secret is lost ([`super::lost_keys`]).

use std::{cell::RefCell, collections::HashMap, path::PathBuf};

use super::{Error, rows::Row};
use crate::{
    cli::{
        keys_file::RecognizedKeysFile,
        owned_file::AppendableFile,
        row_file::{RecognizedRows, RowFormat},
    },
    domain::RequestId,
};

const FORMAT_HEADER: &str = "turnkey import journal 1";
const ROTATION: &str = "rotation";

#[derive(Default)]
struct RequestIds {
    creations: HashMap<String, RequestId>,
    rotations: HashMap<String, RequestId>,
}

/// A journal that has not been changed yet.
pub struct RecognizedJournal(RecognizedRows);

pub struct Journal {
    creations: HashMap<String, RequestId>,
    rotations: RefCell<Rotations>,
}

struct Rotations {
    request_ids: HashMap<String, RequestId>,
    /// Locked while the import runs.
    file: AppendableFile,
}

impl Journal {
    /// Reads the journal of the import into `keys` if it exists, and changes nothing.
    ///
    /// The journal names its kind of target, because request ids are scoped to the caller: a server would not find those of
    /// an import into its database.
    pub fn recognize(keys: &RecognizedKeysFile, target: &str) -> Result<RecognizedJournal, Error> {
        let mut path = keys.path().as_os_str().to_owned();
        path.push(".journal");
        let path = PathBuf::from(path);
        let format = RowFormat {
            header: format!("{FORMAT_HEADER} {target}"),
            is_row: |line| parse(line).is_some(),
            mismatch: "belongs to another import (choose another --out file)",
        };
        let journal = RecognizedRows::read(&path, format)?;
        if journal.is_new() && keys.has_rows() {
            let (out, path) = (keys.path().display(), path.display());
            return Err(format!("cannot continue {out} without its journal {path}; choose another --out file").into());
        }
        Ok(RecognizedJournal(journal))
    }

    pub fn request_id(&self, slug: &str) -> Result<RequestId, Error> {
        self.creations.get(slug).cloned().ok_or_else(|| format!("the journal has no request id for {slug}").into())
    }

    /// Returns the request id of the tenant's last rotation by this import.
    pub fn rotation_id(&self, slug: &str) -> Option<RequestId> {
        self.rotations.borrow().request_ids.get(slug).cloned()
    }

    /// Records a rotation before it is sent, so that a killed import repeats it instead of losing another key.
    pub fn add_rotation(&self, slug: &str) -> Result<RequestId, Error> {
        let (line, id) = new_line(slug, Some(ROTATION))?;
        let mut rotations = self.rotations.borrow_mut();
        rotations.file.append(line.as_bytes())?;
        rotations.file.sync()?;
        rotations.request_ids.insert(slug.to_owned(), id.clone());
        Ok(id)
    }
}

impl RecognizedJournal {
    /// Opens or creates the journal, and adds an id for every row that has none.
    pub fn open(self, rows: &[Row]) -> Result<Journal, Error> {
        let mut ids = RequestIds::default();
        for (slug, id, is_rotation) in self.0.rows().filter_map(parse) {
            let ids = if is_rotation { &mut ids.rotations } else { &mut ids.creations };
            ids.insert(slug.to_owned(), id);
        }
        let mut added = String::new();
        for row in rows {
            let slug = row.slug.as_str();
            if !ids.creations.contains_key(slug) {
                let (line, id) = new_line(slug, None)?;
                added.push_str(&line);
                ids.creations.insert(slug.to_owned(), id);
            }
        }
        let mut file = self.0.open()?;
        file.append(added.as_bytes())?;
        file.sync()?;
        let rotations = RefCell::new(Rotations { request_ids: ids.rotations, file });
        Ok(Journal { creations: ids.creations, rotations })
    }
}

fn new_line(slug: &str, kind: Option<&str>) -> Result<(String, RequestId), Error> {
    let text = uuid::Uuid::new_v4().to_string();
    let id = RequestId::parse(&text).map_err(|invalid| format!("a new request id {}", invalid.description))?;
    let suffix = kind.map(|kind| format!(",{kind}")).unwrap_or_default();
    Ok((format!("{slug},{text}{suffix}\n"), id))
}

/// Returns the slug, the id and whether it is that of a rotation, or `None` for an incomplete line.
fn parse(line: &str) -> Option<(&str, RequestId, bool)> {
    let (slug, rest) = line.split_once(',')?;
    let (id, is_rotation) = match rest.split_once(',') {
        None => (rest, false),
        Some((id, ROTATION)) => (id, true),
        Some(_) => return None,
    };
    Some((slug, RequestId::parse(id).ok()?, is_rotation))
}
