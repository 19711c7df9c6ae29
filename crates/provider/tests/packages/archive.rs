//! The archive for hosts with neither dpkg nor rpm, and the checksums.

use std::{fs, process::Command};

use crate::{
    ARCH, DIST, artifact,
    root::{Root, assert_installed},
    succeed,
};

/// The commands of docs/install/packages.md.
#[test]
fn the_archive_installs_the_same_files_by_hand() {
    let page = include_str!("../../../../docs/install/packages.md");
    let (_, section) = page.split_once("## From the archive").unwrap();
    let commands = section.split("```").nth(1).unwrap();
    let commands = commands.strip_prefix("console").unwrap();
    let commands = commands.replace("\n$ ", "\n").replace("amd64", ARCH);

    let root = Root::new();
    root.bring(&artifact("systemd_linux_ARCH.tar.gz"));
    root.ok(&format!("set -e; cd /tmp; {commands}"));
    assert_eq!(root.systemctl(), ["daemon-reload"]);
    assert_installed(&root);
}

#[test]
fn the_checksums_are_those_of_all_files() {
    succeed(
        Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
            .current_dir(&*DIST),
    );
    let listed = fs::read_to_string(DIST.join("SHA256SUMS")).unwrap();
    for file in fs::read_dir(&*DIST).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with("SHA256SUMS") || listed.contains(&name),
            "{name}"
        );
    }
}
