//! Files that commands write: one that is not the command's own keeps every byte and its permissions, and no key is
//! lost where a row is torn or the disk is full.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{sys::stat::Mode, unistd::Uid};

use crate::{
    import::{Import, stderr, tenants},
    support::{
        fixture::Fixture,
        process::{database_url, temp_folder, turnkey},
    },
};

/// Bytes, permissions and the time of the last change.
#[derive(Debug, PartialEq)]
struct Snapshot(Vec<u8>, u32, i64, i64);

fn snapshot(path: &Path) -> Snapshot {
    let metadata = fs::metadata(path).unwrap();
    Snapshot(fs::read(path).unwrap(), metadata.mode(), metadata.ctime(), metadata.ctime_nsec())
}

/// Every command that writes a file, with the name of that file.
const COMMANDS: [&[&str]; 5] = [
    &["doctor", "--repair", "--out"],
    &["import", "tenants.csv", "--out"],
    &["token", "create", "--name", "booking", "--role", "catalog", "--tokens-file"],
    &["serve", "--listen", "127.0.0.1:0", "--ready-file"],
    &["--listen", "127.0.0.1:0", "--ready-file"],
];

/// The file is refused before the database is contacted: no process listens on port 1.
fn run(folder: &Path, command: &[&str], file: &Path) -> Output {
    fs::write(folder.join("tenants.csv"), "slug,name\nbella,Bella\n").unwrap();
    let mut process = turnkey(folder);
    process.args(command).arg(file).env("DATABASE_URL", "postgres://x@127.0.0.1:1/x").output().unwrap()
}

fn assert_refused(output: &Output, file: &Path, command: &[&str]) {
    let stderr = stderr(output);
    assert!(matches!(output.status.code(), Some(1 | 2)) && output.stdout.is_empty(), "{command:?}: {output:?}");
    assert!(stderr.contains(file.to_str().unwrap()), "{command:?}: {stderr}");
    assert!(!stderr.contains("the database cannot be reached"), "{command:?} was refused too late: {stderr}");
}

#[test]
fn a_file_of_something_else_keeps_every_byte_and_its_permissions() {
    for content in ["one\nlast line, no newline", "no newline", "notes\n", "\n\n", "\u{feff}slug\n", "[package]\n"] {
        for command in COMMANDS {
            let folder = temp_folder();
            let file = folder.path().join("v.txt");
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            let before = snapshot(&file);
            // Blank lines are a valid tokens file.
            if content == "\n\n" && command[0] == "token" {
                continue;
            }
            assert_refused(&run(folder.path(), command, &file), &file, command);
            assert_eq!(snapshot(&file), before, "{command:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "{command:?} left a file behind");
        }
    }
}

#[test]
fn a_device_a_fifo_a_directory_or_a_symbolic_link_is_refused() {
    for command in COMMANDS {
        let folder = temp_folder();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("target"), "").unwrap();
        fs::create_dir(path("directory")).unwrap();
        symlink(path("target"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        let before = snapshot(&path("target"));
        for file in [path("link"), path("dangling"), path("fifo"), path("directory")] {
            assert_refused(&run(folder.path(), command, &file), &file, command);
            assert!(fs::symlink_metadata(&file).is_ok(), "{command:?} removed {}", file.display());
        }
        for device in ["/dev/null", "/dev/full", "/dev/zero"] {
            let before = fs::metadata(device).unwrap();
            assert_refused(&run(folder.path(), command, Path::new(device)), Path::new(device), command);
            let after = fs::metadata(device).unwrap();
            assert_eq!((before.mode(), before.rdev()), (after.mode(), after.rdev()));
        }
        assert_eq!(snapshot(&path("target")), before);
        assert!(!path("nowhere").exists());
    }
}

#[test]
fn the_journal_of_an_import_is_recognized_before_it_is_changed() {
    for content in ["notes", "turnkey import journal 1 database\nbella,no-id\nomer,no-id\n"] {
        let folder = temp_folder();
        let journal = folder.path().join("keys.csv.journal");
        fs::write(&journal, content).unwrap();
        let before = snapshot(&journal);
        let keys = folder.path().join("keys.csv");
        assert_refused(&run(folder.path(), COMMANDS[1], &keys), &journal, COMMANDS[1]);
        assert_eq!(snapshot(&journal), before);
        assert!(!keys.exists());
    }
}

#[test]
fn the_input_of_an_import_is_not_its_output() {
    let folder = temp_folder();
    let input = folder.path().join("tenants.csv");
    assert_refused(&run(folder.path(), COMMANDS[1], &input), &input, COMMANDS[1]);
    assert_eq!(fs::read_to_string(input).unwrap(), "slug,name\nbella,Bella\n");
}

#[test]
fn a_tokens_file_without_a_last_newline_gets_a_second_entry() {
    let folder = temp_folder();
    let file = folder.path().join("tokens.toml");
    let create = || run(folder.path(), COMMANDS[2], &file).status.success();
    assert!(create());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.trim_end()).unwrap();
    assert!(create());
    // The last line is cut within a value, so the file is invalid, and the server would reject it.
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("[[token]]").count(), 2);
    fs::write(&file, &text[..text.len() - 10]).unwrap();
    let before = snapshot(&file);
    assert!(!create());
    assert_eq!(snapshot(&file), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_file_whose_last_newline_an_editor_removed_keeps_its_last_key() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(3));
    assert!(import.run(&[]).status.success());
    for file in ["keys.csv", "keys.csv.journal"] {
        let text = fs::read_to_string(import.path(file)).unwrap();
        fs::write(import.path(file), text.strip_suffix('\n').unwrap()).unwrap();
    }
    // Too late for a replay: a removed key would be lost.
    fixture.database.execute("UPDATE idempotency_records SET created_at = created_at - interval '25 hours'").await;
    fs::write(import.path("tenants.csv"), tenants(4)).unwrap();
    let output = import.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    import.assert_all_keys_work(4).await;
    assert_eq!(fixture.row_counts().await, [4, 4, 12, 4], "no key was rotated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_cut_and_then_ended_by_an_editor_is_reported() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(3));
    assert!(import.run(&[]).status.success());
    let text = fs::read_to_string(import.path("keys.csv")).unwrap();
    let cut = format!("{}\n", &text[..text.len() - 5]);
    fs::write(import.path("keys.csv"), &cut).unwrap();
    let output = import.run(&[]);
    assert!(stderr(&output).contains("line 4 of keys.csv is not complete"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(import.path("keys.csv")).unwrap(), cut);
}

/// Limits the size of files, which fails like a full disk, and needs no privilege.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_keys_file_cannot_grow_says_so_and_can_be_continued() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(30));
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" import tenants.csv --out keys.csv"])
        .arg(env!("CARGO_BIN_EXE_turnkey"))
        .current_dir(import.path(""))
        .env("DATABASE_URL", database_url(&fixture.database.server));
    let output = limited.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write keys.csv: "), "{}", stderr(&output));
    assert!((1..30).contains(&import.keys().len()), "whole rows only");
    let output = import.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    import.assert_all_keys_work(30).await;
    assert_eq!(fixture.row_counts().await, [30, 30, 90, 30]);
}

/// Mounts a small disk in a namespace of its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_full_disk_names_the_file_and_leaves_whole_rows() {
    const SCRIPT: &str = "mkdir disk && mount -t tmpfs -o size=8k tmpfs disk || exit 77
                          \"$0\" import tenants.csv --out disk/keys.csv; code=$?; cat disk/keys.csv; exit $code";
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(30));
    let mut unshare = Command::new("unshare");
    if !Uid::effective().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .args(["--mount", "sh", "-c", SCRIPT, env!("CARGO_BIN_EXE_turnkey")])
        .current_dir(import.path(""))
        .env("DATABASE_URL", database_url(&fixture.database.server))
        .output();
    match output {
        Ok(output) if !stderr(&output).starts_with("unshare") && output.status.code() != Some(77) => {
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            let expected = "cannot write disk/keys.csv: No space left on device";
            assert!(stderr(&output).contains(expected), "{}", stderr(&output));
            let keys = String::from_utf8(output.stdout).unwrap();
            assert!(keys.lines().count() > 1 && keys.ends_with('\n'), "{keys}");
            let columns: Vec<usize> = keys.lines().map(|row| row.split(',').count()).collect();
            assert!(columns.iter().all(|&count| count == 4), "{keys}");
        }
        skipped => println!("skipped, because this machine permits no mount: {skipped:?}"),
    }
}

#[test]
fn a_new_file_that_cannot_be_written_is_not_left_behind() {
    let folder = temp_folder();
    let file: PathBuf = folder.path().join("tokens.toml");
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_turnkey")])
        .args(COMMANDS[2])
        .arg(&file)
        .output()
        .unwrap();
    assert_refused(&output, &file, COMMANDS[2]);
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_behind_standard_output_or_standard_error_is_named_and_loses_no_key() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(60));
    let database = database_url(&fixture.database.server);
    for arguments in [&["doctor"][..], &["purge", "--older-than", "30d"], &COMMANDS[2][..6]] {
        let mut command = turnkey(&import.path(""));
        let output = command.args(arguments).env("DATABASE_URL", &database).stdout(full()).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
        let expected = "cannot write to standard output: No space left on device";
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    let mut command = turnkey(&import.path(""));
    command.args(COMMANDS[1]).arg("keys.csv").env("DATABASE_URL", &database).stderr(full());
    assert!(command.status().unwrap().success());
    import.assert_all_keys_work(60).await;
}
