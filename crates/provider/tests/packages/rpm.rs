//! The package for RPM. Debian's `rpm` has a database of its own, so dependencies are unknown to it.

use std::process::Command;

use crate::{
    artifact, repository,
    root::{LISTING, RELOADED, Root, STOPPED, USED, assert_installed},
    succeed,
};

const FILE: &str = "linux_ARCH.rpm";
const RPM: &str = "rpm --force-debian --nodeps";

fn root() -> (Root, String) {
    let root = Root::new();
    root.ok("rm -rf /var/lib/rpm && rpm --initdb");
    let rpm = root.bring(&artifact(FILE));
    (root, rpm)
}

#[test]
fn an_rpm_prepares_the_host_and_starts_nothing() {
    let (root, rpm) = root();
    let messages = root.ok(&format!("{RPM} --install {rpm}"));
    assert_eq!(root.systemctl(), RELOADED);
    assert!(messages.contains("config.yaml is missing"), "{messages}");
    assert_installed(&root);
    root.ok("rpm --verify --nodeps bao-kms-provider");
}

#[test]
fn configuration_and_state_survive_upgrade_and_removal_of_an_rpm() {
    let (root, rpm) = root();
    root.ok(&format!("{RPM} --install {rpm}"));
    root.ok(USED);
    root.ok("touch /is-active");
    let before = root.ok(LISTING);
    root.systemctl();

    // The same release once more runs the scripts of an upgrade: the new package's, then the old one's.
    let messages = root.ok(&format!("{RPM} --upgrade --force {rpm}"));
    assert!(
        messages.contains("restart one node at a time"),
        "{messages}"
    );
    assert_eq!(root.ok(LISTING), before);
    let calls = root.systemctl();
    assert!(calls.iter().all(|call| !call.contains("stop")), "{calls:?}");

    let messages = root.ok(&format!("{RPM} --erase bao-kms-provider"));
    assert_eq!(root.ok(LISTING), before);
    assert_eq!(root.systemctl(), STOPPED);
    assert!(
        messages.contains("/var/lib/openbao-kms remains"),
        "{messages}"
    );
    root.ok("test ! -e /usr/bin/bao-kms-provider && test ! -e /usr/share/bao-kms-provider");
}

#[test]
fn an_rpm_needs_only_the_libraries_that_it_names() {
    let file = artifact(FILE);
    let query = |what: &str| {
        succeed(
            Command::new("rpm")
                .args(["--query", "--package", what])
                .arg(&file),
        )
    };
    let needed = query("--requires");
    let foreign = needed.lines().find(|name| {
        let expected = [
            "/bin/sh",
            "rpmlib(",
            "rtld(",
            "ld-linux",
            "libc.so",
            "libgcc_s.so",
            "libm.so",
            "libdl.so",
            "libpthread.so",
        ];
        !expected.iter().any(|known| name.starts_with(known))
    });
    assert_eq!(foreign, None, "{needed}");
    assert_eq!(query("--obsoletes"), "bao-kms-provider-certauth-pkcs11\n");
}

#[test]
fn rpmlint_accepts_the_rpm() {
    succeed(
        repository("rpmlint")
            .args(["--strict", "--config", "packaging/rpm/rpmlint.toml"])
            .arg(artifact(FILE)),
    );
}
