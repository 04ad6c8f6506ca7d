//! A file of keys, `slug,tenant_id,public_key,secret_key`: the one place where their secrets are after the command that
//! made them.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions, Permissions},
    io::{self, Seek as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::Error;
use crate::domain::TenantId;

const HEADER: &str = "slug,tenant_id,public_key,secret_key";

pub struct KeysFile {
    file: File,
    slugs: HashSet<String>,
}

impl KeysFile {
    /// Begins the file, or goes on at its end.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = open_exclusive(path)?;
        let text = Zeroizing::new(read_complete_lines(&mut file)?);
        let mut lines = text.lines();
        match lines.next() {
            None => writeln!(file, "{HEADER}")?,
            Some(HEADER) => {}
            Some(_) => return Err(format!("{} is no file of keys", path.display()).into()),
        }
        let slugs = lines.filter_map(|line| line.split(',').next()).map(str::to_owned).collect();
        Ok(Self { file, slugs })
    }

    /// Whether it had this tenant's key when it was opened.
    pub fn has(&self, slug: &str) -> bool {
        self.slugs.contains(slug)
    }

    /// A row at once and whole: no buffer that a kill could take along. None of its parts needs quotes.
    pub fn write(
        &mut self,
        slug: &str,
        tenant_id: TenantId,
        public_key: &str,
        secret_key: &SecretString,
    ) -> Result<(), Error> {
        let row = Zeroizing::new(format!("{slug},{tenant_id},{public_key},{}\n", secret_key.expose_secret()));
        self.file.write_all(row.as_bytes())?;
        Ok(())
    }
}

/// To be read from its start and written at its end; made where it is missing, for nobody else's eyes.
pub(super) fn open_private(path: &Path) -> Result<File, Error> {
    open(path).map_err(|error| cannot_write(path, &error))
}

/// The same, by one program at a time, and closed to all others also where it was there before.
pub(super) fn open_exclusive(path: &Path) -> Result<File, Error> {
    let own = || -> io::Result<File> {
        let file = open(path)?;
        file.try_lock()?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    };
    own().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => cannot_write(path, &"another program does"),
        _ => cannot_write(path, &error),
    })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn cannot_write(path: &Path, why: &dyn std::fmt::Display) -> Error {
    format!("cannot write {}: {why}", path.display()).into()
}

/// All lines that were written to their end. What a kill left behind the last of them is cut off.
pub(super) fn read_complete_lines(file: &mut File) -> io::Result<String> {
    let mut text = io::read_to_string(&mut *file)?;
    let end = text.rfind('\n').map_or(0, |last| last + 1);
    text.truncate(end);
    file.set_len(u64::try_from(end).map_err(io::Error::other)?)?;
    file.seek(io::SeekFrom::End(0))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_could_read_is_closed_to_them_and_is_written_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.csv");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let file = open_exclusive(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(open_exclusive(&path).unwrap_err().to_string().contains("another program does"));
        drop(file);
        assert!(open_exclusive(&path).is_ok());
    }
}
