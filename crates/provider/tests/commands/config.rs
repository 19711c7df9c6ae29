//! `config`, `config schema` and `config migrate`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{finish, program, run, write};

#[test]
fn config_shows_every_setting_with_its_origin() {
    let shown = finish(
        program(&[
            "config",
            "--settings-only",
            "--config",
            "tests/config/good/minimal.yaml",
            "--log-level",
            "warn",
        ])
        .env("BAO_KMS_PROVIDER_SERVER_HEALTH_ADDRESS", "127.0.0.1:9000")
        .env("BAO_KMS_PROVIDER_LOG_LEVEL", "error"),
    );
    insta::assert_snapshot!("config", shown.transcript());
}

#[test]
fn config_as_json_has_settings_fingerprint_and_warnings() {
    // The login of a file with the identity of the vectors.
    let text = fs::read_to_string("tests/config/good/oauth2.yaml").unwrap();
    let (before, rest) = text.split_once("    oauth2:\n").unwrap();
    let (_, after) = rest.split_once("\ntransit:").unwrap();
    let before = before.replace("source: oauth2", "source: file");
    let jwt = "    jwtFile: /var/lib/openbao-kms/identity.jwt";
    let directory = tempfile::tempdir().unwrap();
    let text = format!("{before}{jwt}\ntransit:{after}");
    let path = write(directory.path(), "config.yaml", &text);
    let shown = run(&[
        "config",
        "--settings-only",
        "--config",
        path.to_str().unwrap(),
        "--metrics-address",
        "0.0.0.0:8081",
        "--output",
        "json",
    ]);
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    let value = shown.json();
    // The vector of the specification for this very identity.
    assert_eq!(
        value["identityFingerprint"],
        "cfg1.0TtRZ6C4NuO8-x3wFb0gg7PyOJbgxuGoLRGsxJ5MZYg"
    );
    assert_eq!(value["valid"], true);
    assert_eq!(value["effectiveLoginTimeout"], "8s");
    assert_eq!(value["settingWarnings"][0]["path"], "server.metricsAddress");
    assert_eq!(
        value["settings"][4],
        serde_json::json!({
            "path": "server.metricsAddress", "value": "0.0.0.0:8081",
            "origin": "flag", "name": "--metrics-address",
        })
    );
}

#[test]
fn the_fingerprint_without_a_namespace_is_another_one() {
    let shown = run(&[
        "config",
        "--settings-only",
        "--config",
        "tests/config/good/minimal.yaml",
    ]);
    assert!(
        shown
            .out
            .contains("cfg1.MPVj45goFuPNo9-mTDu3X2XcBsFrvWTVvNkrJOuiTlg")
    );
}

#[test]
fn an_invalid_configuration_exits_3_with_every_problem() {
    let path = "tests/config/bad/wrong-types.yaml";
    insta::assert_snapshot!(
        "config-invalid",
        run(&["config", "--config", path]).transcript()
    );

    let shown = run(&["config", "--config", path, "--output", "json"]);
    assert_eq!(shown.code, 3);
    let value = shown.json();
    assert_eq!(value["valid"], false);
    assert_eq!(value["problems"].as_array().unwrap().len(), 8);
    assert_eq!(
        value["problems"][0],
        serde_json::json!({
            "path": "server.socketMode", "kind": "shape", "origin": "file", "line": 11,
            "column": 15, "rule": "must be text, not a number", "hint": "put it in quotes",
        })
    );
}

/// The files of this configuration do not exist here, or others may write the file itself.
#[test]
fn a_file_that_serve_refuses_is_refused_with_the_same_code_and_problems() {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string("tests/config/good/minimal.yaml").unwrap();
    let open = write(directory.path(), "open.yaml", &text);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    for (path, said) in [
        ("tests/config/good/minimal.yaml", "openbao.caCertFile"),
        (open.to_str().unwrap(), "has mode 0666"),
        (
            "tests/config/good/oauth2.yaml",
            "auth.jwt.oauth2.clientSecretFile",
        ),
        (
            "tests/config/good/cert.yaml",
            "auth.cert.pkcs11.certificateFile",
        ),
        ("tests/config/bad/wrong-types.yaml", "server.socketMode"),
    ] {
        let of = |command| run(&[command, "--config", path]);
        let (serve, config) = (of("serve"), of("config"));
        assert_eq!((serve.code, config.code), (3, 3), "{}", config.err);
        assert_eq!(serve.err, config.err);
        assert!(config.err.contains(said), "{}", config.err);
        assert_eq!(config.out, "");
    }
    let elsewhere = ["config", "--settings-only", "--config"];
    let code = |path| run(&[&elsewhere[..], &[path]].concat()).code;
    assert_eq!(code("tests/config/good/minimal.yaml"), 0);
    assert_eq!(code("tests/config/good/oauth2.yaml"), 0);
}

#[test]
fn a_bad_value_of_a_flag_is_a_configuration_error() {
    for flag in [
        &["--log-level", "loud"][..],
        &["--metrics-address", "8081"],
        &["--health-address", "127.0.0.1:8081"],
    ] {
        let arguments = [
            &["config", "--config", "tests/config/good/minimal.yaml"],
            flag,
        ]
        .concat();
        let refused = run(&arguments);
        assert_eq!((refused.code, refused.out.as_str()), (3, ""), "{flag:?}");
        assert!(
            refused.err.contains(&format!("(from {})", flag[0])),
            "{}",
            refused.err
        );
    }
}

#[test]
fn every_command_that_needs_a_configuration_exits_3_without_one() {
    for command in [
        &["config"][..],
        &["policy", "openbao"],
        &["key-id", "--version", "1", "--created-at", "1"],
        &["inspect-state"],
    ] {
        let refused = run(&[command, &["--config", "/nowhere/config.yaml"]].concat());
        assert_eq!((refused.code, refused.out.as_str()), (3, ""), "{command:?}");
    }
    let refused = run(&["config", "--config", "/nowhere/config.yaml"]);
    insta::assert_snapshot!("config-unreadable", refused.err);
}

#[test]
fn a_file_that_is_no_yaml_or_too_large_exits_3_without_its_content() {
    let directory = tempfile::tempdir().unwrap();
    for content in [
        "a: [hvs.marker",
        "\u{0}hvs.marker",
        &"# hvs.marker\n".repeat(30_000),
    ] {
        let path = write(directory.path(), "config.yaml", content);
        let refused = run(&["config", "--config", path.to_str().unwrap()]);
        assert_eq!(refused.code, 3);
        assert!(!refused.err.contains("marker"), "{}", refused.err);
    }
}

#[test]
fn the_printed_schema_is_the_published_one() {
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.schema.json");
    let printed = run(&["config", "schema"]);
    assert_eq!(printed.code, 0);
    assert!(
        printed.out == fs::read_to_string(published).unwrap(),
        "docs/config.schema.json is out of date; write it with: bao-kms-provider config schema"
    );
}

/// A flat file of many spellings, with everything that cannot be taken.
const OLD: &str = r#"# Node of the east.
configVersion: v1alpha1
# For the API server alone.
socketGroup: openbao-kms-socket
openbao.address: https://vault-a.harbor.test:8200
openbaoCaCertFile: /etc/openbao-kms/tls/ca.crt
openbao-tls-server-name: vault-a.harbor.test
OPENBAO_KMS_OPENBAO_INSTANCE_ID: vaultline-2
auth.role: kms-node
auth.mountPath: auth/harbor-east-kms
# jwt: eyJmarker
auth_jwt_file: /var/lib/openbao-kms/identity.jwt
transit:
  mountPath: k8s-transit
  keyName: harbor-east-etcd
providerName: kms-harbor-east
clusterId: harbor-east
transitMountId: tm-harbor-01
# One history of the key.
keyLineageId: "4b1f0c6a9d5e47e2b8c3a07715d2f9e6"
requireStableObservationCount: "5"
rejectVersionRollback: "true"
expectedAudience: openbao, vault
adminAddress: 127.0.0.1:8080
useAssociatedData: true
performance:
  batchDecrypts: true
token: hvs.marker
"#;

#[test]
fn a_flat_file_is_converted_and_every_decision_listed() {
    let directory = tempfile::tempdir().unwrap();
    let old = write(directory.path(), "old.yaml", OLD);
    let new = directory.path().join("new.yaml");
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());

    let checked = run(&["config", "migrate", old, "--check"]);
    assert_eq!(checked.code, 0, "{}", checked.err);
    assert!(!Path::new(new).exists());
    let said = run(&["config", "migrate", old, "--out", new]);
    assert_eq!(said.code, 0, "{}", said.err);
    insta::assert_snapshot!(
        "migrate",
        said.out
            .replace(&directory.path().display().to_string(), "DIR")
    );
    let written = fs::read_to_string(new).unwrap();
    insta::assert_snapshot!("migrated", written);
    assert!(!format!("{written}{}{}", said.out, checked.out).contains("marker"));
    let mode = fs::metadata(new).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let loaded = run(&["config", "--settings-only", "--config", new]);
    assert_eq!(loaded.code, 0, "{}", loaded.err);

    // A file of today, and never over an existing one.
    let again = run(&["config", "migrate", new, "--out", new]);
    assert_eq!(again.code, 1, "{}", again.err);
    assert_eq!(fs::read_to_string(new).unwrap(), written);
    let today = run(&["config", "migrate", new, "--check", "--output", "json"]);
    let today: serde_json::Value = serde_json::from_str(&today.out).unwrap();
    let decisions = today["decisions"].as_array().unwrap();
    assert!(
        decisions.iter().all(|it| it["outcome"] == "kept"),
        "{today}"
    );
    assert_eq!(today["content"], written.as_str());
}

#[test]
fn keys_that_fit_no_setting_are_refused_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let new = directory.path().join("new.yaml");
    let new = new.to_str().unwrap();
    let text = OLD.replace("useAssociatedData: true", "useAssociatedData: false");
    let text = text.replace(
        "socketGroup:",
        "socketGruop: hvs.marker\nmountPath: x\ncolour: red\nsocketGroup:",
    );
    let text = text + "server.socketGroup: other\n";
    let old = write(directory.path(), "old.yaml", &text);
    let refused = run(&["config", "migrate", old.to_str().unwrap(), "--out", new]);
    assert_eq!(refused.code, 3);
    for part in [
        "socketGruop (line 4, column 1): is no setting, under no spelling; did you mean server.socketGroup?",
        "mountPath (line 5, column 1): fits several settings; did you mean auth.jwt.mountPath or",
        "colour (line 6, column 1): is no setting",
        "server.socketGroup (line 32, column 1): gives server.socketGroup a second value",
        "useAssociatedData (line 28, column 1): is false: objects without associated data cannot be read",
    ] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    assert!(!refused.err.contains("marker"));
    assert!(!Path::new(new).exists());

    // The loader has the last word.
    let text = OLD.replace("https://", "http://");
    let old = write(directory.path(), "old.yaml", &text);
    let refused = run(&["config", "migrate", old.to_str().unwrap(), "--out", new]);
    assert_eq!(refused.code, 3);
    assert!(refused.err.contains("openbao.address"), "{}", refused.err);
    assert!(!Path::new(new).exists());
}
