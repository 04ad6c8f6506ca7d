//! What the program says about itself: its version, completions for shells, and the descriptors of the API.

use std::process::Command;

use nix::pty::openpty;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use turnkey::grpc::pb::DESCRIPTORS;

use crate::support::process::{temp_folder, turnkey};

/// The standard output of the command, which must succeed.
fn stdout(arguments: &[&str]) -> Vec<u8> {
    let folder = temp_folder();
    let output = turnkey(folder.path()).args(arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    output.stdout
}

#[test]
fn the_version_has_the_number_and_the_commit() {
    let version = String::from_utf8(stdout(&["--version"])).unwrap();
    let commit = version.trim_end().strip_prefix(concat!("turnkey ", env!("CARGO_PKG_VERSION"), " ("));
    let commit = commit.and_then(|rest| rest.strip_suffix(')')).unwrap_or_else(|| panic!("{version}"));
    assert!(commit == "unknown" || commit.chars().all(|c| c.is_ascii_hexdigit()) && commit.len() >= 7, "{version}");
}

#[test]
fn there_are_completions_for_each_shell_with_commands_and_flags_and_rpcs() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = String::from_utf8(stdout(&["completions", shell])).unwrap();
        for word in ["healthcheck", "older-than", "completions"] {
            assert!(script.contains(word), "{shell} {word}");
        }
        let has_values = ["bash", "zsh"].contains(&shell);
        assert!(!has_values || script.contains("CreateFullyProvisioned"), "{shell}");
    }
    let folder = temp_folder();
    let unknown = turnkey(folder.path()).args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn a_shell_reads_its_completions() {
    let folder = temp_folder();
    std::fs::write(folder.path().join("turnkey.bash"), stdout(&["completions", "bash"])).unwrap();
    let script = "source ./turnkey.bash && COMP_WORDS=(turnkey prot) && COMP_CWORD=1 && _turnkey turnkey prot turnkey \
                  && printf '%s' \"${COMPREPLY[*]}\"";
    let output = Command::new("bash").current_dir(folder.path()).args(["-c", script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "protoset", "{:?}", String::from_utf8(output.stderr));
}

#[test]
fn the_protoset_has_the_api_with_its_imports_and_comments() {
    let bytes = stdout(&["protoset"]);
    assert_eq!(bytes, DESCRIPTORS);
    let files = FileDescriptorSet::decode(bytes.as_slice()).unwrap().file;
    let names: Vec<&str> = files.iter().map(prost_types::FileDescriptorProto::name).collect();
    for file in &files {
        assert!(file.dependency.iter().all(|import| names.contains(&import.as_str())), "{names:?}");
    }
    assert!(names.contains(&"turnkey/v1/tenant_provisioning.proto"), "{names:?}");
    assert!(files.iter().any(|file| file.source_code_info.is_some()));
}

#[test]
fn the_protoset_is_not_written_to_a_terminal() {
    let folder = temp_folder();
    let terminal = openpty(None, None).unwrap();
    let output = turnkey(folder.path()).arg("protoset").stdout(terminal.slave).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("redirect standard output"), "{stderr}");
}
