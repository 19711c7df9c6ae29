//! The commands that need no server, run as a person runs them: the built program, its two output
//! streams, its exit code.

#![expect(
    clippy::unwrap_used,
    reason = "functions that only tests call may fail like tests"
)]

mod basics;
mod compare_nodes;
mod config;
mod inspect_state;
mod key_id;
mod online;
mod packaging;
mod rewrite;
mod schema;

use std::{
    env,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Output,
};

use assert_cmd::Command;
use testkit::schema::assert_published;

/// What a command left behind.
struct Finished {
    code: i32,
    out: String,
    err: String,
}

/// Runs the program with an empty environment, so that nobody's settings change a transcript.
fn run(arguments: &[&str]) -> Finished {
    finish(&mut program(arguments))
}

fn program(arguments: &[&str]) -> Command {
    // Named for a program of another architecture.
    let named = env::var_os("BAO_KMS_PROVIDER_BIN").map(Command::new);
    let mut command = named.unwrap_or_else(|| Command::cargo_bin("bao-kms-provider").unwrap());
    command
        .args(arguments)
        .env_clear()
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn finish(command: &mut Command) -> Finished {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Finished {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

impl Finished {
    /// Everything a terminal would show, and the exit code.
    fn transcript(&self) -> String {
        let Self { code, out, err } = self;
        format!("exit code {code}\n--- stdout\n{out}--- stderr\n{err}")
    }

    /// Fits its published schema.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        let result = serde_json::from_str(&self.out).unwrap();
        assert_published(&result);
        result
    }
}

fn vectors(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../conformance/vectors")
        .join(name);
    serde_json::from_reader(File::open(path).unwrap()).unwrap()
}

/// Creates or replaces a file with mode 0640.
fn write(directory: &Path, name: &str, content: &str) -> PathBuf {
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join(name);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&path)
        .unwrap()
        .write_all(content.as_bytes())
        .unwrap();
    path
}

/// A configuration with the identity of the published vectors.
fn config_for(scope: &serde_json::Value) -> String {
    let text = |name: &str| {
        scope.get(name).map_or("\"\"".to_owned(), |text| {
            // JSON text is YAML text, except that YAML wants this one escaped.
            text.to_string().replace('\u{7f}', "\\u007f")
        })
    };
    format!(
        "configVersion: v1alpha1\n\
         server: {{socketGroup: \"990\"}}\n\
         openbao:\n  address: https://bao.example:8200\n  caCertFile: /nonexistent/ca.crt\n  \
         tlsServerName: bao.example\n  instanceId: {}\n  namespace: {}\n\
         auth: {{jwt: {{mountPath: auth/jwt, role: kms, jwtFile: /nonexistent/identity.jwt}}}}\n\
         transit:\n  mountPath: transit\n  keyName: kubernetes-etcd\n  keyIdScope:\n    \
         providerName: {}\n    clusterId: {}\n    transitMountId: {}\n    keyLineageId: {}\n",
        text("openbaoInstanceId"),
        text("openbaoNamespace"),
        text("providerName"),
        text("clusterId"),
        text("transitMountId"),
        text("transitKeyLineageId"),
    )
}
