//! The keys file: a CSV file with the columns `slug,tenant_id,public_key,secret_key`, to which `import` and `doctor`
//! append the keys that they create. No other copy of the secrets exists. The import's journal uses the same file
//! functions.

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
    /// Opens the file to append to it, and creates it if it does not exist.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = open_exclusive(path)?;
        let text = Zeroizing::new(read_complete_lines(&mut file)?);
        let mut lines = text.lines();
        match lines.next() {
            None => writeln!(file, "{HEADER}")?,
            Some(HEADER) => {}
            Some(_) => {
                return Err(format!("{} is not a keys file: its first line is not `{HEADER}`", path.display()).into());
            }
        }
        let slugs = lines.filter_map(|line| line.split(',').next()).map(str::to_owned).collect();
        Ok(Self { file, slugs })
    }

    /// Whether the file had this tenant's key when it was opened.
    pub fn has(&self, slug: &str) -> bool {
        self.slugs.contains(slug)
    }

    /// Appends a row in one write without a buffer, so that a kill cannot lose it. No field needs quotes.
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

/// Opens a file for reading and appending, and creates it with mode 0600 if it does not exist.
pub(super) fn open_private(path: &Path) -> Result<File, Error> {
    open(path).map_err(|error| cannot_write(path, &error))
}

/// Like [`open_private`], but also locks the file and sets mode 0600 on an existing one.
pub(super) fn open_exclusive(path: &Path) -> Result<File, Error> {
    let open_and_lock = || -> io::Result<File> {
        let file = open(path)?;
        file.try_lock()?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    };
    open_and_lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => cannot_write(path, &"another process has it open"),
        _ => cannot_write(path, &error),
    })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn cannot_write(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    format!("cannot write {}: {reason}", path.display()).into()
}

/// Returns the complete lines, and truncates the file after them: a killed process may have left an incomplete line.
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
    fn an_exclusively_opened_file_is_private_and_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.csv");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let file = open_exclusive(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(open_exclusive(&path).unwrap_err().to_string().contains("another process has it open"));
        drop(file);
        assert!(open_exclusive(&path).is_ok());
    }
}
