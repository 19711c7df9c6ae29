//! The files of `packaging/systemd` fit the program: its defaults, its notifications, its limits.

use std::{collections::BTreeMap, fs, path::Path};

use provider::config::DEFAULT_CONFIG_PATH;

use super::run;

fn packaged(file: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    fs::read_to_string(directory.join(file)).unwrap()
}

/// Each directive of the unit with its values, in order.
fn unit() -> BTreeMap<String, Vec<String>> {
    let text = packaged("bao-kms-provider.service");
    let mut directives = BTreeMap::<_, Vec<_>>::new();
    for line in text.lines() {
        if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let values = directives.entry(name.to_owned()).or_default();
            values.push(value.to_owned());
        }
    }
    directives
}

/// The directory of a path in the default configuration.
fn default_directory(setting: &str) -> String {
    let config = "tests/config/good/minimal.yaml";
    let shown = run(&["config", "--config", config, "--output", "json"]).json();
    let mut settings = shown["settings"].as_array().unwrap().iter();
    let found = settings.find(|it| it["path"] == setting).unwrap();
    let path = Path::new(found["value"].as_str().unwrap());
    path.parent().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn the_unit_allows_what_the_default_configuration_needs() {
    let unit = unit();
    let directories = ["server.socketPath", "state.path"].map(default_directory);
    assert_eq!(unit["ReadWritePaths"], [directories.join(" ")]);
    assert_eq!(unit["ConditionPathIsDirectory"], [directories[0].as_str()]);
    let config = &unit["ConditionPathExists"][0];
    let program = format!("/usr/bin/bao-kms-provider serve --config {config}");
    assert_eq!(unit["ExecStart"], [program]);
    assert_eq!(config, DEFAULT_CONFIG_PATH);
    // Giving the socket to its group, after all privileged calls are taken away.
    let filter = &unit["SystemCallFilter"];
    assert_eq!(filter[..2], ["@system-service", "~@privileged"]);
    assert!(filter[2].starts_with("@chown landlock_create_ruleset "));
}

#[test]
fn the_unit_waits_for_readiness_and_leaves_no_memory_behind() {
    let unit = unit();
    for (name, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("WatchdogSec", "30s"),
        ("TimeoutStopSec", "25s"),
        ("LimitCORE", "0"),
        ("MemorySwapMax", "0"),
        ("NoNewPrivileges", "true"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
    ] {
        assert_eq!(unit[name], [value], "{name}");
    }
}

#[test]
fn users_and_directories_are_made_as_the_unit_expects_them() {
    let (unit, users) = (unit(), packaged("sysusers.d/bao-kms-provider.conf"));
    let (user, sockets) = (&unit["User"][0], &unit["SupplementaryGroups"][0]);
    assert_eq!(&unit["Group"][0], user);
    for line in [
        format!("g {user} -"),
        format!("g {sockets} -"),
        format!("m {user} {sockets}"),
    ] {
        assert!(users.lines().any(|found| found == line), "{line}");
    }
    let directories = packaged("tmpfiles.d/bao-kms-provider.conf");
    for line in [
        format!(
            "d {} 2750 {user} {sockets} -",
            default_directory("server.socketPath")
        ),
        format!("d {} 0750 {user} {user} -", default_directory("state.path")),
        format!("d {} 0750 root {user} -", unit["ReadOnlyPaths"][0]),
    ] {
        assert!(directories.lines().any(|found| found == line), "{line}");
    }
}
