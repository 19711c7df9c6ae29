//! The files of `packaging/systemd` fit the program: its defaults, its notifications, its limits.

use std::{collections::BTreeMap, fs, io, path::Path, process::Command};

use kms_node::config::DEFAULT_CONFIG_PATH;

use super::run;

fn packaged(file: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    fs::read_to_string(directory.join(file)).unwrap()
}

fn unit() -> BTreeMap<String, Vec<String>> {
    unit_of("bao-kms-provider.service")
}

/// Each directive of a unit with its values, in order.
fn unit_of(file: &str) -> BTreeMap<String, Vec<String>> {
    let text = packaged(file);
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
    let shown = run(&[
        "config",
        "--settings-only",
        "--config",
        config,
        "--output",
        "json",
    ])
    .json();
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

/// Without warnings also on systemd 252, the oldest supported: newer directives are in a drop-in.
/// Needs systemd-analyze; machines without systemd skip it.
#[test]
fn systemd_loads_the_units_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let units = [
        ("bao-kms-provider.service", "bao-kms-provider.service"),
        ("bao-kms-provider.socket", "bao-kms-provider.socket"),
        ("bao-kms-provider@.service", "bao-kms-provider@east.service"),
        ("bao-kms-provider@.socket", "bao-kms-provider@east.socket"),
        ("bao-kms-drill.service", "bao-kms-drill.service"),
        ("bao-kms-drill.timer", "bao-kms-drill.timer"),
    ];
    for (file, name) in units {
        // The program is not installed here.
        let text = packaged(file).replace("/usr/bin/bao-kms-provider", "/bin/true");
        testkit::files::replace(&directory.path().join(name), text.as_bytes(), 0o644);
    }
    let analyzed = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units.map(|(_, name)| directory.path().join(name)))
        .output();
    match analyzed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: no systemd-analyze");
        }
        analyzed => {
            let analyzed = analyzed.unwrap();
            let said = String::from_utf8_lossy(&analyzed.stderr);
            let about_ours = said.lines().filter(|line| line.contains("bao-kms"));
            assert_eq!(about_ours.collect::<Vec<_>>(), [""; 0], "{said}");
        }
    }
}

#[test]
fn the_socket_unit_is_as_the_default_configuration_has_it() {
    let (socket, unit) = (unit_of("bao-kms-provider.socket"), unit());
    let config = "tests/config/good/minimal.yaml";
    let shown = run(&[
        "config",
        "--settings-only",
        "--config",
        config,
        "--output",
        "json",
    ])
    .json();
    let settings = shown["settings"].as_array().unwrap();
    for (directive, setting) in [
        ("ListenStream", "server.socketPath"),
        ("SocketMode", "server.socketMode"),
    ] {
        let mut settings = settings.iter();
        let found = settings.find(|it| it["path"] == setting).unwrap();
        assert_eq!(found["value"], socket[directive][0], "{directive}");
    }
    assert_eq!(socket["SocketUser"], unit["User"]);
    assert_eq!(socket["SocketGroup"], unit["SupplementaryGroups"]);
}

/// Several instances on one node: the same unit, with configuration, state and socket of its own.
#[test]
fn the_units_of_an_instance_differ_only_in_their_places() {
    for (kind, places) in [
        (
            "service",
            &[
                ("OpenBao Transit\n", "OpenBao Transit, instance %i\n"),
                ("provider.socket", "provider@.socket"),
                ("kms/config.yaml", "kms/%i/config.yaml"),
                (
                    "ReadOnlyPaths=/etc/openbao-kms",
                    "ReadOnlyPaths=/etc/openbao-kms/%i",
                ),
                ("=/run/openbao-kms", "=/run/openbao-kms/%i"),
                (
                    "/var/lib/openbao-kms/state",
                    "/var/lib/openbao-kms/%i/state",
                ),
            ][..],
        ),
        (
            "socket",
            &[
                ("KMS v2 provider\n", "KMS v2 provider, instance %i\n"),
                ("=/run/openbao-kms", "=/run/openbao-kms/%i"),
            ],
        ),
    ] {
        let mut expected = packaged(&format!("bao-kms-provider.{kind}"));
        for (one, instance) in places {
            assert!(expected.contains(one), "{one}");
            expected = expected.replace(one, instance);
        }
        assert!(
            packaged(&format!("bao-kms-provider@.{kind}")) == expected,
            "{kind}"
        );
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

#[test]
fn the_drill_has_no_network_and_its_command_line_is_understood() {
    let unit = unit_of("bao-kms-drill.service");
    for (name, value) in [
        ("PrivateNetwork", "true"),
        ("PrivateTmp", "true"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6"),
        ("KillMode", "mixed"),
        ("LimitCORE", "0"),
        ("MemorySwapMax", "0"),
        ("NoNewPrivileges", "true"),
        ("CapabilityBoundingSet", ""),
    ] {
        assert_eq!(unit[name], [value], "{name}");
    }
    let command: Vec<_> = unit["ExecStart"][0].split(' ').collect();
    let after = |option: &str| {
        let found = command.iter().zip(&command[1..]);
        let found = found.filter(|(name, _)| **name == option);
        found.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    assert_eq!(after("--config"), [DEFAULT_CONFIG_PATH]);
    let variables = unit["Environment"].iter();
    let variables: Vec<_> = variables.filter_map(|it| it.split_once('=')).collect();
    for (option, variable) in [
        ("--bao", "BAO"),
        ("--etcd-snapshot", "ETCD_SNAPSHOT"),
        ("--openbao-snapshot", "OPENBAO_SNAPSHOT"),
    ] {
        assert_eq!(after(option), [format!("${{{variable}}}")]);
        assert!(variables.iter().any(|(name, _)| *name == variable));
    }
    let credentials = unit["LoadCredential"].iter();
    let credentials = credentials.filter_map(|it| it.split_once(':'));
    let shares: Vec<_> = credentials.map(|(name, _)| format!("%d/{name}")).collect();
    assert_eq!(after("--unseal-key-file"), shares);
    let states: Vec<_> = unit["StateDirectory"][0].split(' ').collect();
    for (option, directory) in [
        ("--report", Path::new(after("--report")[0])),
        (
            "--metrics-file",
            Path::new(after("--metrics-file")[0]).parent().unwrap(),
        ),
    ] {
        let below = directory.strip_prefix("/var/lib").unwrap();
        assert!(states.contains(&below.to_str().unwrap()), "{option}");
    }
    // Everything is understood but the configuration, which is not there.
    let absent = command[1..].iter().map(|word| match *word {
        DEFAULT_CONFIG_PATH => "/nonexistent.yaml",
        word => word,
    });
    assert_eq!(run(&absent.collect::<Vec<_>>()).code, 3);

    let user = &unit["User"][0];
    let users = packaged("sysusers.d/bao-kms-drill.conf");
    assert!(
        users
            .lines()
            .any(|line| line.starts_with(&format!("u {user} - ")))
    );
    let main = packaged("sysusers.d/bao-kms-provider.conf");
    let groups = &unit["SupplementaryGroups"][0];
    assert!(main.contains(&format!("u {groups} - ")));
    let timer = unit_of("bao-kms-drill.timer");
    assert_eq!(timer["OnCalendar"], ["weekly"]);
}
