//! The keys file: a CSV file with the columns `slug,tenant_id,public_key,secret_key`, to which `import` and `doctor`
//! append the keys that they create. No other copy of the secrets exists.

use std::{collections::HashSet, path::Path};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{
    Error,
    owned_file::AppendableFile,
    row_file::{RecognizedRows, RowFormat},
};
use crate::domain::{ParsedSecretKey, PublicKey, TenantId};

const HEADER: &str = "slug,tenant_id,public_key,secret_key";

pub struct KeysFile {
    file: AppendableFile,
    slugs: HashSet<String>,
}

/// A keys file that has not been changed yet.
pub struct RecognizedKeysFile(RecognizedRows);

impl KeysFile {
    /// Reads the file if it exists, and changes nothing.
    pub fn recognize(path: &Path) -> Result<RecognizedKeysFile, Error> {
        let format = RowFormat { header: HEADER.to_owned(), is_row: is_complete_row, mismatch: "is not a keys file" };
        RecognizedRows::read(path, format).map(RecognizedKeysFile)
    }

    /// Whether the file had this tenant's key when it was opened.
    pub fn has(&self, slug: &str) -> bool {
        self.slugs.contains(slug)
    }

    /// Appends a row. No field needs quotes.
    pub fn write(
        &mut self,
        slug: &str,
        tenant_id: TenantId,
        public_key: &str,
        secret_key: &SecretString,
    ) -> Result<(), Error> {
        let row = Zeroizing::new(format!("{slug},{tenant_id},{public_key},{}\n", secret_key.expose_secret()));
        self.file.append(row.as_bytes())
    }
}

impl RecognizedKeysFile {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn has_rows(&self) -> bool {
        self.0.rows().next().is_some()
    }

    /// Opens the file to append to it, and creates it if it does not exist.
    pub fn open(self) -> Result<KeysFile, Error> {
        let slugs = self.0.rows().filter_map(|row| row.split(',').next()).map(str::to_owned).collect();
        Ok(KeysFile { file: self.0.open()?, slugs })
    }
}

/// The length and the checksum of a secret key reveal a row that was cut.
fn is_complete_row(row: &str) -> bool {
    let mut fields = row.split(',');
    let row = (fields.next(), fields.next(), fields.next(), fields.next(), fields.next());
    let (Some(slug), Some(tenant_id), Some(public_key), Some(secret_key), None) = row else { return false };
    !slug.is_empty()
        && TenantId::parse(tenant_id).is_ok()
        && PublicKey::parse(public_key).is_ok()
        && ParsedSecretKey::parse(&SecretString::from(secret_key)).is_some()
}
