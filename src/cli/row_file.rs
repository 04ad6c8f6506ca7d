//! A private text file of a header line and one row per line, to which a command appends: the keys file and the journal
//! of an import.
//!
//! A last row without a line feed is complete if its content is: an editor has removed the line feed. Otherwise the row
//! is torn: the process was killed or the disk was full while it was written. It is removed, since its content is sent
//! or created again.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{
    Error,
    owned_file::{AppendableFile, ExistingFile, PRIVATE},
};

/// What the files of one kind contain.
pub struct RowFormat {
    pub header: String,
    pub is_row: fn(&str) -> bool,
    /// Says what a file with another first line is not, as in "is not a keys file".
    pub mismatch: &'static str,
}

/// A file that has been recognized and not changed, or that does not exist yet.
pub struct RecognizedRows {
    path: PathBuf,
    header: String,
    existing: Option<ExistingFile>,
    /// The header and the complete rows.
    text: Zeroizing<String>,
    /// Whether more than `text` is in the file: a torn row.
    is_torn: bool,
}

impl RecognizedRows {
    /// Reads the file if it exists. An empty file is accepted: there is nothing in it to lose.
    pub fn read(path: &Path, format: RowFormat) -> Result<Self, Error> {
        let RowFormat { header, is_row, mismatch } = format;
        let mut recognized =
            Self { path: path.to_owned(), header, existing: None, text: Zeroizing::default(), is_torn: false };
        let Some(mut existing) = ExistingFile::open(path)? else { return Ok(recognized) };
        let header = recognized.header.as_str();
        let mismatch = || format!("{} {mismatch}: its first line is not {header:?}", path.display());
        // Not more than the header: another file can be of any size.
        let mut bytes = existing.read(header.len() as u64 + 1)?;
        if !bytes.is_empty() {
            if !(bytes.starts_with(header.as_bytes()) && matches!(bytes.get(header.len()), None | Some(b'\n' | b'\r')))
            {
                return Err(mismatch().into());
            }
            bytes.extend_from_slice(&existing.read(u64::MAX)?);
        }
        let text = String::from_utf8(std::mem::take(&mut *bytes));
        let text = Zeroizing::new(text.map_err(|_invalid| format!("{} is not UTF-8", path.display()))?);
        // Where lines end with CR alone, the whole file would be the header.
        if text.lines().next().is_some_and(|first| first.strip_suffix('\r').unwrap_or(first) != header) {
            return Err(mismatch().into());
        }
        recognized.text = text;
        recognized.check_rows(is_row)?;
        recognized.existing = Some(existing);
        Ok(recognized)
    }

    fn check_rows(&mut self, is_row: fn(&str) -> bool) -> Result<(), Error> {
        let count = self.text.lines().count();
        let incomplete = (1..).zip(self.text.lines()).skip(1).find(|(_, row)| !(row.is_empty() || is_row(row)));
        match incomplete {
            None => {}
            Some((number, _)) if number == count && !self.text.ends_with('\n') => {
                let end = self.text.rfind('\n').map_or(0, |last| last + 1);
                self.text.truncate(end);
                self.is_torn = true;
            }
            Some((number, _)) => {
                let path = self.path.display();
                return Err(format!("line {number} of {path} is not complete: correct or delete it").into());
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn rows(&self) -> impl Iterator<Item = &str> {
        self.text.lines().skip(1).filter(|row| !row.is_empty())
    }

    /// Whether there is no file, or an empty one.
    pub fn is_new(&self) -> bool {
        self.text.is_empty()
    }

    /// Opens the file for appending rows, or creates it. Adds the header or the last line feed if it is missing, and
    /// removes a torn row.
    pub fn open(self) -> Result<AppendableFile, Error> {
        let header = format!("{}\n", self.header);
        let Some(existing) = self.existing else {
            return AppendableFile::create(&self.path, PRIVATE, header.as_bytes());
        };
        let mut file = existing.into_appendable()?;
        file.make_private()?;
        if self.is_torn {
            file.truncate(self.text.len() as u64)?;
        }
        if self.text.is_empty() {
            file.append(header.as_bytes())?;
        } else if !self.text.ends_with('\n') {
            file.append(b"\n")?;
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    use super::*;

    fn read(path: &Path) -> Result<RecognizedRows, Error> {
        let is_row = |row: &str| row.split_once('=').is_some_and(|(_, value)| value.len() == 2);
        RecognizedRows::read(path, RowFormat { header: "numbers".to_owned(), is_row, mismatch: "is not ours" })
    }

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_file_that_is_not_recognized_keeps_every_byte_and_its_mode() {
        for (content, reason) in [
            ("one\nlast line, no newline", "is not ours"),
            ("no newline at all", "is not ours"),
            ("numbe", "is not ours"),
            ("numbers of others\n", "is not ours"),
            ("numbers\ra=12\rb=34\r", "is not ours"),
            ("\n", "is not ours"),
            ("numbers\na=1\nb=12\n", "line 2"),
            ("numbers\na=12\nb=1\n", "line 3"),
        ] {
            let (_directory, path) = file(content);
            let before = fs::metadata(&path).unwrap();
            let Err(error) = read(&path) else { panic!("{content:?} was accepted") };
            assert!(error.to_string().contains(reason), "{error}");
            let after = fs::metadata(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!((before.mode(), before.modified().unwrap()), (after.mode(), after.modified().unwrap()));
        }
    }

    #[test]
    fn rows_are_appended_after_any_end_of_an_own_file() {
        for (content, rows, result) in [
            ("", vec![], "numbers\nz=99\n"),
            ("numbers", vec![], "numbers\nz=99\n"),
            ("numbers\n", vec![], "numbers\nz=99\n"),
            ("numbers\na=12\n", vec!["a=12"], "numbers\na=12\nz=99\n"),
            // An editor has removed the last line feed.
            ("numbers\na=12\nb=34", vec!["a=12", "b=34"], "numbers\na=12\nb=34\nz=99\n"),
            // A kill has cut the last row.
            ("numbers\na=12\nb=3", vec!["a=12"], "numbers\na=12\nz=99\n"),
            ("numbers\na", vec![], "numbers\nz=99\n"),
            ("numbers\r\na=12\r\nb=34", vec!["a=12", "b=34"], "numbers\r\na=12\r\nb=34\nz=99\n"),
            ("numbers\na=12\n\n", vec!["a=12"], "numbers\na=12\n\nz=99\n"),
        ] {
            let (_directory, path) = file(content);
            let recognized = read(&path).unwrap();
            assert_eq!(recognized.rows().collect::<Vec<_>>(), rows, "{content:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            recognized.open().unwrap().append(b"z=99\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), result);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_new_file_is_private_and_begins_with_the_header() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let recognized = read(&path).unwrap();
        assert!(recognized.is_new() && !path.exists());
        drop(recognized.open().unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "numbers\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
