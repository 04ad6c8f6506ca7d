//! The ready file: `serve` writes its address to it once it is SERVING, and removes it when it stops.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    Error,
    owned_file::{AppendableFile, ExistingFile},
};

/// Every user may read the file: it contains no secret.
const MODE: u32 = 0o644;
/// Longer than any address.
const MAX_BYTES: u64 = 128;

pub struct ReadyFile(PathBuf);

impl ReadyFile {
    /// # Errors
    /// If the path names something other than a ready file of an earlier server.
    pub fn new(path: PathBuf) -> Result<Self, Error> {
        let file = Self(path);
        recognize(&file.0)?;
        recognize(&file.incomplete())?;
        Ok(file)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Renames a complete file into place, because other programs read the file as soon as it exists.
    pub fn write(&self, address: SocketAddr) -> Result<(), Error> {
        let incomplete = self.incomplete();
        remove(&incomplete)?;
        drop(AppendableFile::create(&incomplete, MODE, format!("{address}\n").as_bytes())?);
        recognize(&self.0)?;
        fs::rename(incomplete, &self.0).map_err(|error| format!("cannot write {}: {error}", self.0.display()).into())
    }

    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.0)
    }

    fn incomplete(&self) -> PathBuf {
        let mut path = self.0.as_os_str().to_owned();
        path.push(".new");
        path.into()
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    recognize(path)?.map_or(Ok(()), ExistingFile::remove)
}

/// Returns the file if it is an earlier ready file, or empty, or `None` if there is none.
fn recognize(path: &Path) -> Result<Option<ExistingFile>, Error> {
    let Some(mut existing) = ExistingFile::open(path)? else { return Ok(None) };
    let content = existing.read(MAX_BYTES)?;
    let address = str::from_utf8(&content).ok().and_then(|text| text.trim_end().parse::<SocketAddr>().ok());
    if content.is_empty() || address.is_some() {
        Ok(Some(existing))
    } else {
        Err(format!("{} is not a ready file: its content is not an address. Choose another path", path.display())
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 50_051);

    #[test]
    fn a_ready_file_replaces_that_of_an_earlier_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        for earlier in ["", "127.0.0.1:1\n", "[::1]:65535\n", "127.0.0.1:1"] {
            fs::write(&path, earlier).unwrap();
            fs::write(directory.path().join("ready.new"), earlier).unwrap();
            let file = ReadyFile::new(path.clone()).unwrap();
            file.write(ADDRESS).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "127.0.0.1:50051\n");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
        ReadyFile::new(path.clone()).unwrap().remove().unwrap();
        assert!(!path.exists());
        ReadyFile::new(path).unwrap().remove().unwrap();
    }

    #[test]
    fn another_file_is_neither_replaced_nor_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        for content in ["notes", "127.0.0.1:50051\nnotes", "127.0.0.1"] {
            for name in ["ready", "ready.new"] {
                let other = directory.path().join(name);
                fs::write(&other, content).unwrap();
                assert!(ReadyFile::new(path.clone()).is_err());
                assert_eq!(fs::read_to_string(&other).unwrap(), content);
                fs::remove_file(other).unwrap();
            }
        }
        let file = ReadyFile::new(path.clone()).unwrap();
        fs::write(&path, "notes").unwrap();
        assert!(file.write(ADDRESS).is_err() && file.remove().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
        assert!(ReadyFile::new("/dev/null".into()).is_err());
    }
}
