//! Finds the Postgres programs: in `PG_BIN`, or else on `PATH`, then in the directories of Linux and macOS packages.
//!
//! It does not install Postgres; the error names the command that does.

use std::{
    collections::HashSet,
    env, fs,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use crate::{Error, process::clean_command};

/// The oldest major version that the migrations are tested with.
pub(crate) const MIN_MAJOR: u16 = 15;

/// A directory with `initdb`, `postgres` and `pg_ctl` of one version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Binaries {
    pub directory: PathBuf,
    pub major: u16,
}

impl Binaries {
    /// Returns the first usable directory. Only the major version that created a cluster can run it; `cluster_major` is
    /// that of the cluster in `data_dir`, if there is one.
    pub fn find(pg_bin: Option<&Path>, data_dir: &Path, cluster_major: Option<u16>) -> Result<Self, Error> {
        let candidates = pg_bin.map_or_else(default_search_paths, |directory| vec![directory.to_path_buf()]);
        choose(candidates, cluster_major, installed_version).map_err(|rejected| {
            let found = if rejected.is_empty() { "none".to_owned() } else { rejected.join("; ") };
            match (pg_bin, cluster_major) {
                (Some(directory), _) if rejected.is_empty() => Error::InvalidPgBin {
                    reason: format!("{} does not contain `initdb`, `postgres` and `pg_ctl`", directory.display()),
                },
                (Some(_), None) => Error::InvalidPgBin { reason: found },
                (_, Some(major)) => {
                    let place = if pg_bin.is_some() { "PG_BIN is" } else { "found:" };
                    let found = format!("{place} {found}");
                    Error::MajorVersionMismatch { data_dir: data_dir.to_path_buf(), major, found }
                }
                (None, None) => Error::NotInstalled { found, remedy: install_command() },
            }
        })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Returns the first usable candidate, or the reason why each one with a Postgres is not usable: its version, if
/// another one created the cluster.
fn choose(
    candidates: Vec<PathBuf>,
    cluster_major: Option<u16>,
    installed_version: impl Fn(&Path) -> Option<Result<u16, String>>,
) -> Result<Binaries, Vec<String>> {
    let mut rejected = Vec::new();
    let mut examined = HashSet::new();
    for directory in candidates {
        // Several entries of `PATH` can lead to one directory.
        if !examined.insert(directory.clone()) {
            continue;
        }
        let reason = match (installed_version(&directory), cluster_major) {
            (None, _) => continue,
            (Some(Err(reason)), _) => reason,
            (Some(Ok(major)), _) if major < MIN_MAJOR => format!("Postgres {major} is older than {MIN_MAJOR}"),
            (Some(Ok(major)), Some(creator)) if major != creator => {
                format!("Postgres {major}")
            }
            (Some(Ok(major)), _) => return Ok(Binaries { directory, major }),
        };
        rejected.push(format!("{}: {reason}", directory.display()));
    }
    Err(rejected)
}

/// Returns `None` for a directory without a complete Postgres: Debian's `/usr/bin` has the clients, but no `initdb`.
fn installed_version(directory: &Path) -> Option<Result<u16, String>> {
    let is_complete = ["initdb", "postgres", "pg_ctl"].iter().all(|program| directory.join(program).is_file());
    is_complete.then(|| {
        let output = clean_command(directory.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|error| format!("cannot run `postgres --version`: {error}"))?;
        let line = String::from_utf8_lossy(&output.stdout);
        parse_major(&line).ok_or_else(|| format!("`postgres --version` printed {:?}", line.trim()))
    })
}

/// Parses `postgres (PostgreSQL) 15.14 (Debian …)`, also with a version such as `18beta1`.
fn parse_major(line: &str) -> Option<u16> {
    let (_, version) = line.split_once("(PostgreSQL) ")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn default_search_paths() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    paths.extend(versioned_directories("/usr/lib/postgresql", ""));
    paths.extend(versioned_directories("/usr", "pgsql-"));
    paths.extend(versioned_directories("/opt/homebrew/opt", "postgresql@"));
    paths.extend(versioned_directories("/usr/local/opt", "postgresql@"));
    paths.push("/opt/homebrew/bin".into());
    paths.into_iter().map(resolve_symlinks).collect()
}

/// Returns every `<parent>/<prefix><number>/bin`, the highest number first.
fn versioned_directories(parent: &str, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let mut numbered: Vec<(u16, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    numbered.sort_unstable();
    numbered.into_iter().rev().map(|(_, directory)| directory)
}

/// Returns the directory that the programs in `path` link to. Postgres finds its other files from the real location of
/// its programs, and a relative entry of `PATH` is wrong after a change of directory.
fn resolve_symlinks(path: PathBuf) -> PathBuf {
    let initdb = path.join("initdb").canonicalize();
    match initdb.as_deref().map(Path::parent) {
        Ok(Some(directory)) if directory.join("postgres").is_file() => directory.to_path_buf(),
        _ => path,
    }
}

/// Returns the command that installs Postgres on this machine.
fn install_command() -> String {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17".to_owned();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let is_on_path = |program: &str| env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let command = [
        ("apt-get", "apt-get install -y postgresql"),
        ("dnf", "dnf install -y postgresql-server"),
        ("apk", "apk add postgresql"),
    ]
    .into_iter()
    .find_map(|(manager, command)| is_on_path(manager).then_some(command));
    match command {
        Some(command) if Uid::effective().is_root() => command.to_owned(),
        Some(command) => format!("sudo {command}"),
        None => "the package `postgresql` of this system".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_in(directory: &Path) -> Option<Result<u16, String>> {
        match directory.to_str()? {
            "/old" => Some(Ok(13)),
            "/broken" => Some(Err("cannot be run".to_owned())),
            "/15" => Some(Ok(15)),
            "/17" => Some(Ok(17)),
            _ => None,
        }
    }

    fn choose_from(directories: &[&str], cluster_major: Option<u16>) -> Result<Binaries, Vec<String>> {
        choose(directories.iter().map(PathBuf::from).collect(), cluster_major, version_in)
    }

    #[test]
    fn the_major_version_of_releases_and_betas_is_parsed() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(parse_major(debian), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_major("postgres (PostgreSQL) 17"), Some(17));
        assert_eq!(parse_major("postgres (PostgreSQL) devel"), None);
        assert_eq!(parse_major("something else 15.1"), None);
    }

    #[test]
    fn the_first_usable_directory_is_chosen() {
        let chosen = choose_from(&["/empty", "/old", "/17", "/15"], None);
        assert_eq!(chosen, Ok(Binaries { directory: "/17".into(), major: 17 }));
    }

    #[test]
    fn the_version_that_created_the_cluster_is_chosen() {
        let chosen = choose_from(&["/17", "/15"], Some(15));
        assert_eq!(chosen.map(|binaries| binaries.major), Ok(15));
    }

    #[test]
    fn every_rejected_postgres_is_listed_with_its_reason() {
        let rejected = choose_from(&["/empty", "/old", "/broken", "/17", "/old", "/17"], Some(15));
        let expected = ["/old: Postgres 13 is older than 15", "/broken: cannot be run", "/17: Postgres 17"];
        assert_eq!(rejected, Err(expected.map(str::to_owned).to_vec()));
    }
}
