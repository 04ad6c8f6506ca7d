//! Files that a command writes. A file that is not the command's own stays exactly as it is, its permissions included.
//!
//! An existing file is opened read-only and locked. It must be a regular file, and the caller recognizes its content.
//! Only then can it be opened for appending ([`ExistingFile::into_appendable`]). A new file is created exclusively.

use std::{
    fmt::Display,
    fs::{self, File, FileType, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::Error;

/// The mode of files with secrets.
pub const PRIVATE: u32 = 0o600;

/// A regular file that is open for reading only, and locked.
pub struct ExistingFile {
    pub path: PathBuf,
    file: File,
}

/// A file to which a command appends. It is locked until it is dropped.
pub struct AppendableFile {
    path: PathBuf,
    file: File,
    /// Where the complete content ends.
    length: u64,
    /// The read-only handle that holds the lock of an existing file.
    _lock: Option<File>,
}

impl ExistingFile {
    /// Returns `None` if there is no such file.
    ///
    /// # Errors
    /// If it is not a regular file, or another process has locked it.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        // Checked before the file is opened, too: opening a device can have effects.
        let file_type = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_use(path, &error)),
        };
        require_regular(path, file_type)?;
        let file = open(OpenOptions::new().read(true), path).map_err(|error| cannot_use(path, &error))?;
        require_regular(path, file.metadata().map_err(|error| cannot_use(path, &error))?.file_type())?;
        lock(path, &file)?;
        Ok(Some(Self { path: path.to_owned(), file }))
    }

    /// Reads at most `limit` bytes from the current position.
    pub fn read(&mut self, limit: u64) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut bytes = Zeroizing::new(Vec::new());
        match (&mut self.file).take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(format!("cannot read {}: {error}", self.path.display()).into()),
        }
    }

    /// Opens the file, which the caller has recognized, for appending.
    pub fn into_appendable(self) -> Result<AppendableFile, Error> {
        let Self { path, file: lock } = self;
        let open_again = || -> io::Result<(File, u64)> {
            let file = open(OpenOptions::new().append(true), &path)?;
            let (recognized, opened) = (lock.metadata()?, file.metadata()?);
            if (recognized.dev(), recognized.ino()) != (opened.dev(), opened.ino()) {
                return Err(io::Error::other("another process has replaced it"));
            }
            Ok((file, opened.len()))
        };
        let (file, length) = open_again().map_err(|error| cannot_use(&path, &error))?;
        Ok(AppendableFile { path, file, length, _lock: Some(lock) })
    }

    /// Deletes the file, which the caller has recognized.
    pub fn remove(self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(|error| format!("cannot remove {}: {error}", self.path.display()).into())
    }
}

impl AppendableFile {
    /// Creates the file with its first content, or nothing. Fails if the file exists.
    pub fn create(path: &Path, mode: u32, content: &[u8]) -> Result<Self, Error> {
        let file = open(OpenOptions::new().append(true).create_new(true).mode(mode), path)
            .map_err(|error| cannot_use(path, &error))?;
        lock(path, &file)?;
        let mut created = Self { path: path.to_owned(), file, length: 0, _lock: None };
        created.append(content).inspect_err(|_error| {
            // The first error is the one to report.
            let _ = fs::remove_file(path);
        })?;
        Ok(created)
    }

    /// Appends in one write without a buffer, so that a kill cannot lose it. A write that fails, for example because
    /// the disk is full, leaves nothing behind.
    pub fn append(&mut self, content: &[u8]) -> Result<(), Error> {
        if let Err(error) = self.file.write_all(content) {
            // Otherwise the rest is a torn row, which the next run removes.
            let _ = self.file.set_len(self.length);
            return Err(cannot_use(&self.path, &error));
        }
        self.length += content.len() as u64;
        Ok(())
    }

    /// Removes everything after the first `length` bytes.
    pub fn truncate(&mut self, length: u64) -> Result<(), Error> {
        self.file.set_len(length).map_err(|error| cannot_use(&self.path, &error))?;
        self.length = length;
        Ok(())
    }

    pub fn make_private(&self) -> Result<(), Error> {
        self.file.set_permissions(Permissions::from_mode(PRIVATE)).map_err(|error| cannot_use(&self.path, &error))
    }

    /// Waits until the content is on the disk.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|error| cannot_use(&self.path, &error))
    }
}

/// Does not follow a symbolic link, and does not wait for the other end of a FIFO.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)
}

fn lock(path: &Path, file: &File) -> Result<(), Error> {
    file.try_lock().map_err(|error| match io::Error::from(error) {
        error if error.kind() == io::ErrorKind::WouldBlock => cannot_use(path, &"another process has it open"),
        error => cannot_use(path, &error),
    })
}

fn require_regular(path: &Path, file_type: FileType) -> Result<(), Error> {
    let kind = if file_type.is_file() {
        return Ok(());
    } else if file_type.is_symlink() {
        "a symbolic link; name the file that it points to"
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(cannot_use(path, &format_args!("not a regular file but {kind}")))
}

fn cannot_use(path: &Path, reason: &dyn Display) -> Error {
    format!("cannot write {}: {reason}", path.display()).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;

    use super::*;

    fn refusal(path: &Path) -> String {
        match ExistingFile::open(path) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{} was opened", path.display()),
        }
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("target"), "text").unwrap();
        std::os::unix::fs::symlink(path("target"), path("link")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for (name, kind) in [
            (path("link"), "a symbolic link"),
            (path("dangling"), "a symbolic link"),
            (path("fifo"), "a FIFO"),
            (path("socket"), "a socket"),
            (directory.path().to_owned(), "a directory"),
            ("/dev/null".into(), "a device"),
            ("/dev/full".into(), "a device"),
        ] {
            let message = refusal(&name);
            assert!(message.contains(name.to_str().unwrap()) && message.contains(kind), "{message}");
        }
        assert!(ExistingFile::open(&path("missing")).unwrap().is_none());
        assert!(!path("nowhere").exists());
    }

    #[test]
    fn a_file_is_locked_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let created = AppendableFile::create(&path, PRIVATE, b"one\n").unwrap();
        assert!(refusal(&path).contains("another process has it open"));
        drop(created);
        let mut appendable = ExistingFile::open(&path).unwrap().unwrap().into_appendable().unwrap();
        assert!(refusal(&path).contains("another process has it open"));
        appendable.append(b"two\n").unwrap();
        drop(appendable);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert!(AppendableFile::create(&path, PRIVATE, b"").is_err());
    }

    #[test]
    fn a_file_that_was_replaced_after_it_was_recognized_is_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "ours").unwrap();
        let recognized = ExistingFile::open(&path).unwrap().unwrap();
        fs::write(directory.path().join("other"), "other").unwrap();
        fs::rename(directory.path().join("other"), &path).unwrap();
        let Err(error) = recognized.into_appendable() else { panic!("another file was opened") };
        assert!(error.to_string().contains("replaced"), "{error}");
    }
}
