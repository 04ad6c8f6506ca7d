//! The journal of an import: the request id of every row. It is beside the keys file and as secret as that: for 24
//! hours its ids can be used to obtain the keys, and later together with a dump of the database from within those
//! hours.
//!
//! Which rows are done is not here but in the keys file. A line is `slug,id`, or `slug,id,rotation,public key` for the
//! rotation of a key whose secret is lost ([`super::lost_keys`]).

use std::{cell::RefCell, collections::HashMap, path::PathBuf};

use super::{Error, rows::Row};
use crate::{
    cli::{
        keys_file::RecognizedKeysFile,
        owned_file::AppendableFile,
        row_file::{RecognizedRows, RowFormat},
    },
    domain::{PublicKey, RequestId},
};

const FORMAT_HEADER: &str = "turnkey import journal 1";
const ROTATION: &str = "rotation";

/// The rotation of a key.
#[derive(Clone)]
pub struct Rotation {
    pub request_id: RequestId,
    /// The key to replace.
    pub public_key: PublicKey,
}

/// A journal that has not been changed yet.
pub struct RecognizedJournal(RecognizedRows);

pub struct Journal {
    creations: HashMap<String, RequestId>,
    rotations: RefCell<Rotations>,
}

struct Rotations {
    last: HashMap<String, Rotation>,
    /// Locked while the import runs.
    file: AppendableFile,
}

impl Journal {
    /// Reads the journal of the import into `keys` if it exists, and changes nothing.
    ///
    /// The journal names its kind of target, because request ids are scoped to the caller: a server would not find
    /// those of an import into its database.
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

    /// Returns the tenant's last rotation by this import.
    pub fn rotation(&self, slug: &str) -> Option<Rotation> {
        self.rotations.borrow().last.get(slug).cloned()
    }

    /// Records a rotation before it is sent, so that a killed import repeats it instead of losing another key.
    pub fn add_rotation(&self, slug: &str, public_key: PublicKey) -> Result<Rotation, Error> {
        let (line, request_id) = new_line(slug, &format!(",{ROTATION},{}", public_key.as_str()))?;
        let mut rotations = self.rotations.borrow_mut();
        rotations.file.append(line.as_bytes())?;
        rotations.file.sync()?;
        let rotation = Rotation { request_id, public_key };
        rotations.last.insert(slug.to_owned(), rotation.clone());
        Ok(rotation)
    }
}

impl RecognizedJournal {
    /// Opens or creates the journal, and adds an id for every row that has none.
    pub fn open(self, rows: &[Row]) -> Result<Journal, Error> {
        let (mut creations, mut last) = (HashMap::new(), HashMap::new());
        for (slug, request_id, rotated_key) in self.0.rows().filter_map(parse) {
            match rotated_key {
                None => drop(creations.insert(slug.to_owned(), request_id)),
                Some(public_key) => drop(last.insert(slug.to_owned(), Rotation { request_id, public_key })),
            }
        }
        let mut added = String::new();
        for row in rows {
            let slug = row.slug.as_str();
            if !creations.contains_key(slug) {
                let (line, id) = new_line(slug, "")?;
                added.push_str(&line);
                creations.insert(slug.to_owned(), id);
            }
        }
        let mut file = self.0.open()?;
        file.append(added.as_bytes())?;
        file.sync()?;
        Ok(Journal { creations, rotations: RefCell::new(Rotations { last, file }) })
    }
}

fn new_line(slug: &str, suffix: &str) -> Result<(String, RequestId), Error> {
    let text = uuid::Uuid::new_v4().to_string();
    let id = RequestId::parse(&text).map_err(|invalid| format!("a new request id {}", invalid.description))?;
    Ok((format!("{slug},{text}{suffix}\n"), id))
}

/// Returns the slug, the id and, for a rotation, the replaced key, or `None` for an incomplete line.
fn parse(line: &str) -> Option<(&str, RequestId, Option<PublicKey>)> {
    let mut parts = line.splitn(4, ',');
    let (slug, id) = (parts.next()?, parts.next()?);
    let rotated_key = match (parts.next(), parts.next()) {
        (None, None) => None,
        (Some(ROTATION), Some(public_key)) => Some(PublicKey::parse(public_key).ok()?),
        _ => return None,
    };
    Some((slug, RequestId::parse(id).ok()?, rotated_key))
}
