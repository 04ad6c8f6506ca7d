//! The file of keys, `slug,tenant_id,public_key,secret_key`: the one place where the secrets are after an import.

use std::{collections::HashSet, fs::File, io::Write as _, path::Path};

use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use super::{
    Error,
    journal::{private_file, whole_lines},
    target::Made,
};
use crate::domain::TenantSlug;

const HEAD: &str = "slug,tenant_id,public_key,secret_key\n";

pub struct Keys {
    file: File,
    done: HashSet<String>,
}

impl Keys {
    pub fn open(out: &Path) -> Result<Self, Error> {
        let mut file = private_file(out)?;
        let text = Zeroizing::new(whole_lines(&mut file)?);
        if text.is_empty() {
            file.write_all(HEAD.as_bytes())?;
        }
        let slugs = text.lines().skip(1).filter_map(|line| line.split(',').next());
        Ok(Self { file, done: slugs.map(str::to_owned).collect() })
    }

    pub fn has(&self, slug: &str) -> bool {
        self.done.contains(slug)
    }

    /// A row at once and whole: no buffer that a kill could take along. None of its parts needs quotes.
    pub fn write(&mut self, slug: &TenantSlug, made: &Made) -> Result<(), Error> {
        let Made { tenant_id, public_key, secret_key } = made;
        let row = Zeroizing::new(format!("{slug},{tenant_id},{public_key},{}\n", secret_key.expose_secret()));
        self.file.write_all(row.as_bytes())?;
        Ok(())
    }
}
