//! The files of `init`: OpenBao prepared by the script serves a provider with the same values.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use kms_node::config::{Environment, Flags};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    files,
    openbao::{binary, shared_openbao},
};

use crate::node::{Finished, Node, TIMING, program};

/// Values of a node in the places of the package, and a directory for the files.
struct Plan {
    node: Node,
    directory: TempDir,
    /// Of its own: the server is shared.
    policy: String,
}

impl Plan {
    async fn new(name: &str) -> Self {
        let mut node = Node::new(TIMING).await;
        node.config["transit"]["mountPath"] = json!(format!("init-{name}"));
        node.config["auth"]["jwt"]["mountPath"] = json!(format!("auth/init-{name}"));
        Self {
            node,
            directory: TempDir::new().unwrap(),
            policy: format!("init-{name}"),
        }
    }

    fn out(&self) -> PathBuf {
        self.file("made")
    }

    /// Runs `init` with the node's values, in the places that the package has.
    fn init(&self, change: impl FnOnce(&mut Value), more: &[&str]) -> Finished {
        let mut values = self.node.config.clone();
        values["server"]["socketPath"] = json!("/run/openbao-kms/kms.sock");
        values["server"]["metricsAddress"] = json!("127.0.0.1:8081");
        values["server"]["healthAddress"] = json!("127.0.0.1:8082");
        values["state"]["path"] = json!("/var/lib/openbao-kms/state/key-registry.json");
        change(&mut values);
        let file = self.file("values.yaml");
        files::replace(&file, values.to_string().as_bytes(), 0o640);
        let mut command = program();
        command
            .arg("init")
            .arg("--values")
            .arg(file)
            .arg("--out")
            .arg(self.out());
        if !more.contains(&"--policy-name") {
            command.args(["--policy-name", &self.policy]);
        }
        command.args(more).output().unwrap().into()
    }

    /// Runs the script with the administrator's token.
    async fn script(&self, part: &str) -> Finished {
        let script = self.out().join("openbao-setup.sh");
        let programs = self.file("bin");
        if !programs.exists() {
            fs::create_dir(&programs).unwrap();
            let bao = binary().path().canonicalize().unwrap();
            symlink(bao, programs.join("bao")).unwrap();
        }
        let keys = self.file("issuer.pem");
        let public_key = self.node.tenant.public_key_pem();
        files::replace(&keys, public_key.as_bytes(), 0o644);
        let openbao = shared_openbao().await;
        Command::new("/bin/sh")
            .args(["-c", &format!("{} {part}", script.display())])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
            .env("HOME", self.directory.path())
            .env("BAO_ADDR", openbao.endpoint().address.to_string())
            .env("BAO_CACERT", openbao.ca_file())
            .env("BAO_TOKEN", openbao.secrets().root_token.expose())
            .env("JWT_KEYS", keys)
            .env("PASSWORD", self.file("credential"))
            .env("SECRET_ID", self.file("issued"))
            .env("TOKEN", self.file("issued"))
            .output()
            .unwrap()
            .into()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// The other methods. The script issues the credential too, where there is one.
#[tokio::test]
async fn the_script_prepares_each_login_method() {
    for (method, settings) in [
        (
            "approle",
            json!({"mountPath": "auth/init-approle", "roleId": "role-of-init"}),
        ),
        (
            "userpass",
            json!({"mountPath": "auth/init-userpass", "username": "kms-node"}),
        ),
        ("token", json!({})),
    ] {
        let mut plan = Plan::new(&format!("login-{method}")).await;
        let file = plan.file("credential");
        files::replace(&file, b"Correct-Horse-7", 0o640);
        let mut settings = settings;
        settings[match method {
            "approle" => "secretIdFile",
            "userpass" => "passwordFile",
            _ => "file",
        }] = json!(file);
        plan.node.config["auth"] = json!({"method": method, method: settings});

        let made = plan.init(|_| {}, &[]);
        assert_eq!(made.code, Some(0), "{method}: {}", made.err);
        let done = plan.script("all").await;
        assert_eq!(done.code, Some(0), "{method}: {}{}", done.out, done.err);
        if method != "userpass" {
            let issued = plan.file("issued");
            assert_eq!(
                fs::metadata(&issued).unwrap().permissions().mode() & 0o777,
                0o600
            );
            files::replace(&file, &fs::read(&issued).unwrap(), 0o640);
            let again = plan.script("auth-role").await;
            assert_ne!(again.code, Some(0), "{method}: the file was overwritten");
        }
        let provider = plan.node.serve().await;
        assert_eq!(plan.node.run(&["doctor"]).code, Some(0), "{method}");
        provider.stop().await;
    }
}

#[tokio::test]
async fn openbao_prepared_by_the_script_serves_a_provider_with_the_same_values() {
    let plan = Plan::new("served").await;
    let made = plan.init(|_| {}, &[]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    for (name, mode) in [
        ("config.yaml", 0o640),
        ("openbao-setup.sh", 0o750),
        ("encryption-config.yaml", 0o644),
        ("installation.json", 0o640),
    ] {
        let found = fs::metadata(plan.out().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }

    let done = plan.script("").await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let provider = plan.node.serve().await;
    assert_eq!(plan.node.run(&["doctor"]).code, Some(0));
    provider.stop().await;

    // Repeated, it keeps the key: the state of the node still fits.
    let done = plan.script("all").await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let _provider = plan.node.serve().await;
    let unknown = plan.script("everything").await;
    assert_eq!(unknown.code, Some(2), "{}", unknown.err);
}

#[tokio::test]
async fn the_same_values_make_the_same_files_and_nothing_is_overwritten() {
    let plan = Plan::new("same").await;
    let made = plan.init(|_| {}, &["--output", "json"]).json();
    assert_eq!(made["verdict"], "passed");
    let first = contents(&plan.out());
    let again = plan.init(|_| {}, &[]);
    assert_eq!(again.code, Some(1), "{}", again.out);
    assert_eq!(contents(&plan.out()), first);

    fs::remove_dir_all(plan.out()).unwrap();
    plan.init(|_| {}, &[]);
    assert_eq!(contents(&plan.out()), first);

    // The configuration is the one that was checked.
    let text = fs::read_to_string(plan.out().join("config.yaml")).unwrap();
    let (flags, environment) = (Flags::default(), Environment::default());
    let loaded = kms_node::config::parse(&text, "config.yaml".into(), &flags, &environment);
    let fingerprint = loaded.unwrap().config.fingerprint().to_string();
    assert_eq!(made["identityFingerprint"], fingerprint);
    assert_eq!(made["installation"]["identityFingerprint"], fingerprint);
}

#[tokio::test]
async fn bad_values_are_all_named_and_nothing_is_written() {
    let plan = Plan::new("bad").await;
    let bad = plan.init(
        |values| {
            values["server"]["socketMode"] = json!("0999");
            values["auth"]["jwt"]["rolle"] = json!("x");
            values["auth"]["jwt"]["expectedSubject"] = json!("");
            values["openbao"].as_object_mut().unwrap().remove("address");
        },
        &["--policy-name", "root"],
    );
    assert_eq!(bad.code, Some(3), "{}", bad.err);
    for setting in [
        "server.socketMode",
        "auth.jwt.rolle",
        "auth.jwt.expectedSubject",
        "openbao.address",
        "--policy-name",
    ] {
        assert!(bad.err.contains(setting), "{setting}: {}", bad.err);
    }
    assert!(!plan.out().exists());

    for refused in [
        &["--new-key"][..],
        &["--set", "auth.jwt.role"],
        &["--set", "server.maxConcurrentEncrypt=many"],
        &["--config", "/etc/openbao-kms/config.yaml"],
        &["--model", "static-pod"],
    ] {
        let usage = plan.init(|_| {}, refused);
        assert_eq!(usage.code, Some(2), "{refused:?}: {}", usage.err);
        assert!(!plan.out().exists());
    }
}

/// Names and contents of the files in a directory.
fn contents(directory: &Path) -> Vec<(String, String)> {
    let mut all: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    all.sort();
    all
}
