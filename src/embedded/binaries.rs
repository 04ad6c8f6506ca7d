//! Finds the Postgres programs on this machine: in `PG_BIN`, on `PATH`, then where the packagers
//! of Linux and macOS put them.
//!
//! It installs nothing. When it finds nothing it says which one command would.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;

use super::EmbeddedError;

/// The oldest major version the migrations are tested with.
const OLDEST_MAJOR: u16 = 15;

/// A directory with `initdb`, `postgres` and `pg_ctl` of one version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) directory: PathBuf,
    pub(super) major: u16,
}

impl Binaries {
    /// Takes the first usable directory. A cluster can only be run by the major version that
    /// made it, so an existing one (`cluster`: its directory and version) narrows the choice.
    pub(super) fn find(pg_bin: Option<&Path>, cluster: Option<(&Path, u16)>) -> Result<Self, EmbeddedError> {
        let candidates = match pg_bin {
            Some(directory) => vec![directory.to_path_buf()],
            None => usual_places(env::var_os("PATH").as_deref()),
        };
        let major = cluster.map(|(_, major)| major);
        choose(candidates, major, version_in).map_err(|rejected| match (pg_bin, cluster) {
            (Some(directory), _) if rejected.is_empty() => EmbeddedError::PgBin {
                reason: format!("{} does not hold `initdb`, `postgres` and `pg_ctl`", directory.display()),
            },
            (Some(_), _) => EmbeddedError::PgBin { reason: rejected.join("; ") },
            (None, Some((directory, major))) => {
                EmbeddedError::OtherMajor { directory: directory.to_path_buf(), major, found: listed(&rejected) }
            }
            (None, None) => EmbeddedError::NoPostgres { found: listed(&rejected), remedy: install_command() },
        })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The first candidate that will do, or why each one that holds a Postgres will not.
fn choose(
    candidates: impl IntoIterator<Item = PathBuf>,
    wanted: Option<u16>,
    version_in: impl Fn(&Path) -> Option<Result<u16, String>>,
) -> Result<Binaries, Vec<String>> {
    let mut rejected = Vec::new();
    for directory in candidates {
        let reason = match version_in(&directory) {
            None => continue,
            Some(Err(reason)) => reason,
            Some(Ok(major)) if major < OLDEST_MAJOR => {
                format!("Postgres {major} is older than {OLDEST_MAJOR}")
            }
            Some(Ok(major)) if wanted.is_some_and(|wanted| wanted != major) => {
                format!("Postgres {major} cannot run this cluster")
            }
            Some(Ok(major)) => return Ok(Binaries { directory, major }),
        };
        rejected.push(format!("{}: {reason}", directory.display()));
    }
    Err(rejected)
}

/// `None` when the directory holds no complete Postgres. `/usr/bin` of Debian is such a one: it
/// has the clients without `initdb`.
fn version_in(directory: &Path) -> Option<Result<u16, String>> {
    let complete = ["initdb", "postgres", "pg_ctl"].iter().all(|program| directory.join(program).is_file());
    complete.then(|| {
        let output = Command::new(directory.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|error| format!("`postgres --version` cannot be run: {error}"))?;
        let line = String::from_utf8_lossy(&output.stdout);
        major_version(&line).ok_or_else(|| format!("`postgres --version` answered {:?}", line.trim()))
    })
}

/// Reads `postgres (PostgreSQL) 15.14 (Debian …)`, and `18beta1` in place of the number too.
fn major_version(line: &str) -> Option<u16> {
    let (_, version) = line.split_once("(PostgreSQL) ")?;
    let digits = version.find(|character: char| !character.is_ascii_digit()).map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

fn usual_places(path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = path.map(|path| env::split_paths(path).collect()).unwrap_or_default();
    places.extend(numbered("/usr/lib/postgresql", ""));
    places.extend(numbered("/usr", "pgsql-"));
    places.extend(numbered("/opt/homebrew/opt", "postgresql@"));
    places.extend(numbered("/usr/local/opt", "postgresql@"));
    places.push(PathBuf::from("/opt/homebrew/bin"));
    places.iter().map(|place| behind_links(place)).collect()
}

/// `<parent>/<prefix><number>/bin`, the highest number first.
fn numbered(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u16, PathBuf)> = Path::new(parent)
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, directory)| directory).collect()
}

/// The directory the links in `place` lead to. Postgres finds its other files from where its
/// programs really are, and a relative entry of `PATH` would mean nothing after a change of
/// directory.
fn behind_links(place: &Path) -> PathBuf {
    let target = place.join("initdb").canonicalize().ok();
    match target.as_deref().and_then(Path::parent) {
        Some(directory) if directory.join("postgres").is_file() => directory.to_path_buf(),
        _ => place.to_path_buf(),
    }
}

fn listed(rejected: &[String]) -> String {
    if rejected.is_empty() { "none".to_owned() } else { rejected.join("; ") }
}

/// The one command that installs Postgres here, as a newcomer can paste it.
fn install_command() -> String {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17".to_owned();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = |program: &str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let install = [
        ("apt-get", "apt-get install -y postgresql"),
        ("dnf", "dnf install -y postgresql-server"),
        ("apk", "apk add postgresql"),
    ]
    .into_iter()
    .find(|(manager, _)| on_path(manager));
    match install {
        Some((_, command)) if Uid::effective().is_root() => command.to_owned(),
        Some((_, command)) => format!("sudo {command}"),
        None => "(the package `postgresql` of your system)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(directory: &Path) -> Option<Result<u16, String>> {
        match directory.to_str()? {
            "/old" => Some(Ok(13)),
            "/broken" => Some(Err("cannot be run".to_owned())),
            "/15" => Some(Ok(15)),
            "/17" => Some(Ok(17)),
            _ => None,
        }
    }

    fn candidates(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn reads_the_major_version_of_releases_and_previews() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(major_version(debian), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 17"), Some(17));
        assert_eq!(major_version("postgres (PostgreSQL) devel"), None);
        assert_eq!(major_version("something else 15.1"), None);
    }

    #[test]
    fn takes_the_first_directory_that_will_do() {
        let found = choose(candidates(&["/empty", "/old", "/17", "/15"]), None, installed);
        let expected = Binaries { directory: PathBuf::from("/17"), major: 17 };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn takes_the_version_that_made_the_cluster() {
        let found = choose(candidates(&["/17", "/15"]), Some(15), installed);
        assert_eq!(found.map(|binaries| binaries.major), Ok(15));
    }

    #[test]
    fn names_every_postgres_it_had_to_leave_out() {
        let rejected = choose(candidates(&["/empty", "/old", "/broken", "/17"]), Some(15), installed);
        let expected = [
            "/old: Postgres 13 is older than 15",
            "/broken: cannot be run",
            "/17: Postgres 17 cannot run this cluster",
        ];
        assert_eq!(rejected, Err(expected.map(str::to_owned).to_vec()));
    }
}
