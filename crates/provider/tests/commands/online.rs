//! The commands that ask OpenBao, as far as they get without one: usage and configuration.

use serde_json::Value;

use super::{config_for, finish, program, run, vectors, write};

const HASH: &str = "krs1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn mistakes_on_the_command_line_are_found_before_anything_else() {
    let retire = ["retire-versions", "--before-version", "2"];
    let restore = ["restore-versions", "--versions", "1"];
    for (command, more) in [
        (&["retire-versions"][..], &[][..]),
        (&["retire-versions", "--before-version", "1"], &[]),
        (&["retire-versions", "--before-version", "02"], &[]),
        (&["retire-versions", "--before-version", "-1"], &[]),
        (&retire, &["--apply"]),
        (&retire, &["--expected-state-hash", HASH]),
        (&retire, &["--apply", "--expected-state-hash", "krs1.short"]),
        (&retire, &["--output", "toml"]),
        (&restore, &["--apply"]),
        (&["restore-versions"], &[]),
        (&["restore-versions", "--versions", ""], &[]),
        (&["restore-versions", "--versions", "0"], &[]),
        (&["restore-versions", "--versions", "1,,2"], &[]),
        (&["rotation-plan", "surplus"], &[]),
        (&["verify-rotation", "--output"], &[]),
        (&["verify-key", "--output", "toml"], &[]),
        (&["benchmark"], &["--iterations", "0"]),
        (&["benchmark"], &["--iterations", "-1"]),
        (&["benchmark"], &["--iterations", "1000001"]),
        (&["benchmark"], &["--iterations", "many"]),
        (&["benchmark"], &["--concurrency", "0"]),
        (&["benchmark"], &["--concurrency"]),
        (&["benchmark"], &["--output", "toml"]),
        (&["benchmark"], &["surplus"]),
        (&["record-backup"], &[]),
        (&["record-backup", "--out", "x", "--output", "toml"], &[]),
        (&["verify-backup"], &[]),
        (
            &["verify-backup", "--etcd-snapshot", "x", "--depth", "all"],
            &[],
        ),
        (
            &["verify-backup", "--etcd-snapshot", "x", "--endpoints", "y"],
            &[],
        ),
    ] {
        // The configuration does not exist, which would be exit code 3.
        let config = ["--config", "/nonexistent"];
        let refused = run(&[command, more, &config].concat());
        assert_eq!(refused.code, 2, "{command:?} {more:?}: {}", refused.err);
        assert_eq!(refused.out, "", "{command:?}");
        assert_ne!(refused.err, "", "{command:?}");
    }
}

#[test]
fn a_configuration_that_is_not_valid_exits_3() {
    let bad = "tests/config/bad/address.yaml";
    for command in [
        &["rotation-plan"][..],
        &["verify-rotation"],
        &["retire-versions", "--before-version", "2"],
        &["restore-versions", "--versions", "1"],
        &["benchmark"],
        &["record-backup", "--out", "/nonexistent/record"],
        &["verify-backup", "--etcd-snapshot", "/nonexistent/db"],
    ] {
        for config in [bad, "/nonexistent"] {
            let refused = run(&[command, &["--config", config]].concat());
            assert_eq!(refused.code, 3, "{command:?}: {}", refused.err);
            assert_eq!(refused.out, "", "{command:?}");
        }
    }
    for config in [bad, "/nonexistent"] {
        let refused = run(&["verify-key", "--config", config, "--output", "json"]);
        assert_eq!(refused.code, 3, "{}", refused.err);
        let checks = refused.json()["checks"].as_array().unwrap().clone();
        let of_configuration = |check: &&Value| {
            let id = check["id"].as_str().unwrap();
            id.starts_with("config.")
        };
        let (found, others): (Vec<_>, Vec<_>) = checks.iter().partition(of_configuration);
        assert!(found.iter().any(|check| check["status"] == "fail"));
        assert_eq!(others.len(), 11);
        assert!(others.iter().all(|check| check["status"] == "skip"));
        // The report says it all.
        assert_eq!(refused.err, "");
    }
    let shown = run(&["verify-key", "--config", bad]);
    insta::assert_snapshot!("verify-key-invalid-config", shown.transcript());
}

#[test]
fn evidence_that_is_not_there_is_named_with_the_next_step() {
    let directory = tempfile::tempdir().unwrap();
    let scope = &vectors("key_id.json")["keys"][0]["scope"];
    let state = directory.path().join("key-registry.json");
    let text = format!("{}state:\n  path: {}\n", config_for(scope), state.display());
    let config = write(directory.path(), "config.yaml", &text);
    let verify = ["verify-backup", "--config", config.to_str().unwrap()];
    let here = config.to_str().unwrap();
    let record = ["--etcd-snapshot", here, "--record", "/nonexistent/record"];
    let newer = r#"{"new": [], "schemaVersion": "bao-kms-provider/backup-record/v9"}"#;
    let newer = write(directory.path(), "newer.json", newer);
    let newer = ["--etcd-snapshot", here, "--record", newer.to_str().unwrap()];
    let etcd = ["--endpoints", "https://127.0.0.1:1"];
    let authority = [&etcd[..], &["--cacert", "/nonexistent/ca"]].concat();
    for (options, code, said) in [
        (
            &["--etcd-snapshot", "/nonexistent/db"][..],
            5,
            [
                "/nonexistent/db",
                "next: give an existing file or directory, readable for this user",
            ],
        ),
        (
            &record,
            5,
            [
                "/nonexistent/record",
                "next: give an existing file or directory, readable for this user",
            ],
        ),
        (
            &newer,
            5,
            [
                "written by a newer release (schema \"bao-kms-provider/backup-record/v9\")",
                "next: use the newer release, or give other evidence",
            ],
        ),
        (
            &etcd,
            2,
            [
                "https://127.0.0.1:1",
                "next: give the readable files of an etcd client",
            ],
        ),
        (
            &authority,
            5,
            [
                "/nonexistent/ca",
                "next: give the readable files of an etcd client",
            ],
        ),
    ] {
        let failed = run(&[&verify[..], options].concat());
        assert_eq!(failed.code, code, "{}", failed.err);
        let shown = format!("{}{}", failed.out, failed.err);
        for said in said {
            assert!(shown.contains(said), "{shown}");
        }
    }
}

#[test]
fn a_ca_bundle_that_is_not_there_is_no_mistake_of_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let scope = &vectors("key_id.json")["keys"][0]["scope"];
    let place = directory.path().display();
    let text = config_for(scope).replace("/nonexistent", &place.to_string());
    let text = format!("{text}state:\n  path: {place}/key-registry.json\n");
    let config = write(directory.path(), "config.yaml", &text);
    let config = ["--config", config.to_str().unwrap()];
    for command in ["rotation-plan", "verify-key"] {
        let failed = run(&[&[command][..], &config].concat());
        assert_eq!(failed.code, 4, "{}", failed.err);
        assert!(
            failed.out.contains("cannot read openbao.caCertFile"),
            "{}",
            failed.out
        );
    }
}

#[test]
fn variables_of_etcdctl_and_bao_are_used_and_named() {
    let scan = |more: &[&str], variables: &[(&str, &str)]| {
        let mut command = program(&[&["scan-etcd", "-o", "json"], more].concat());
        finish(command.envs(variables.iter().copied()))
    };
    let endpoint = ("ETCDCTL_ENDPOINTS", "http://127.0.0.1:1");
    let by_variable = scan(&[], &[endpoint]);
    assert_eq!(by_variable.code, 5, "{}", by_variable.err);
    let source = &by_variable.json()["optionSources"][0];
    assert_eq!(source["option"], "--endpoints");
    assert_eq!(source["value"], endpoint.1);
    assert_eq!(source["source"], endpoint.0);
    let typed = scan(&["--endpoints", "http://127.0.0.1:2"], &[endpoint]).json();
    assert!(typed.get("optionSources").is_none(), "{typed:#}");
    assert!(typed.to_string().contains("127.0.0.1:2"), "{typed:#}");

    let bad = scan(&[], &[("ETCDCTL_ENDPOINTS", "http://192.0.2.1:1")]);
    assert_eq!(bad.code, 2);
    let note = "note: --endpoints comes from ETCDCTL_ENDPOINTS";
    assert!(bad.err.contains(note), "{}", bad.err);

    let scope = &vectors("key_id.json")["keys"][0]["scope"];
    let directory = tempfile::tempdir().unwrap();
    let config = write(directory.path(), "config.yaml", &config_for(scope));
    let verify = [
        "verify-key",
        "-o",
        "json",
        "--config",
        config.to_str().unwrap(),
    ];
    let bao = [
        ("BAO_ADDR", "http://plain"),
        ("BAO_CACERT", "/nonexistent/other"),
    ];
    let refused = finish(program(&verify).envs(bao));
    assert_eq!(refused.code, 3, "{}", refused.err);
    let refused = refused.json();
    assert!(
        refused.to_string().contains("from --openbao-address"),
        "{refused:#}"
    );
    assert_eq!(refused["optionSources"][1]["source"], "BAO_CACERT");
}
