//! A tokens file, written by `turnkey token create` as an operator would.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use turnkey::config::ServerSettings;

use super::{
    fixture::settings,
    process::{temp_folder, turnkey},
};

/// A folder with a tokens file.
pub struct Tokens {
    folder: TempDir,
}

impl Tokens {
    pub fn new() -> Self {
        let folder = temp_folder();
        let file = folder.path().join("tokens.toml");
        fs::write(&file, "").unwrap();
        // Independent of the umask.
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        Self { folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("tokens.toml")
    }

    /// Adds a service token with these roles and returns it.
    pub fn create(&self, name: &str, roles: &[&str]) -> String {
        self.create_with(name, roles, &[])
    }

    /// The same with further arguments.
    pub fn create_with(&self, name: &str, roles: &[&str], arguments: &[&str]) -> String {
        let mut command = turnkey(self.folder.path());
        command.args(["token", "create", "--name", name, "--tokens-file", "tokens.toml"]).args(arguments);
        let output = command.args(roles.iter().flat_map(|role| ["--role", role])).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stderr, b"", "the only output is the token");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Appends to the file, such as the entry of a certificate or a line of the last entry.
    pub fn append(&self, text: &str) {
        fs::OpenOptions::new().append(true).open(self.file()).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Settings of a server that reads this file.
    pub fn settings(&self) -> ServerSettings {
        ServerSettings { tokens_file: Some(self.file()), ..settings() }
    }
}
