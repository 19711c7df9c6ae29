//! `rollout` with two real API servers of one etcd, from plaintext to encryption alone, and with a
//! mistake on the way.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use openbao_lab::port::free_port;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    control_plane::{ControlPlane, Kind, identity},
    etcd::Etcd,
    files,
    schema::assert_published,
};

use crate::{cluster::Cluster, node::program};

/// Two API servers, and an operator with a directory of its own.
struct Pair {
    cluster: Cluster,
    second: ControlPlane,
    directory: TempDir,
}

impl Pair {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        let directory = TempDir::new().unwrap();
        let second = cluster.control_plane.beside("cp-2");
        let kubeconfig = cluster.control_plane.kubeconfig();
        let file = directory.path().join("kubeconfig");
        files::replace(&file, kubeconfig.as_bytes(), 0o600);
        Self {
            cluster,
            second,
            directory,
        }
    }

    /// Starts the first one again with these providers; none is no encryption configuration.
    async fn first(&mut self, providers: &[Value]) {
        restart(&mut self.cluster.control_plane, providers).await;
    }

    async fn second(&mut self, providers: &[Value]) {
        restart(&mut self.second, providers).await;
    }

    fn command(&self, command: &str, options: &[&str]) -> Command {
        let mut program = program();
        self.cluster.node.sockets.set_environment(&mut program);
        program
            .arg(command)
            .arg("--kubeconfig")
            .arg(self.directory.path().join("kubeconfig"))
            .args(["--output", "json"])
            .args(options)
            .current_dir(self.directory.path());
        program
    }

    /// The result for these addresses.
    #[track_caller]
    fn of(&self, servers: &[String], code: i32, options: &[&str]) -> Value {
        let mut command = self.command("rollout", options);
        for server in servers {
            command.args(["--server", server]);
        }
        let done = command.output().unwrap();
        let out = String::from_utf8_lossy(&done.stdout);
        let err = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{out}{err}");
        let result = serde_json::from_str(&out).unwrap();
        assert_published(&result);
        result
    }

    /// The result of a rewrite by the node, whose state proves it.
    #[track_caller]
    fn rewrite(&self, code: i32, options: &[&str]) -> Value {
        let mut command = self.command("rewrite", options);
        let done = command
            .arg("--config")
            .arg(self.cluster.node.write_config())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&done.stdout);
        let err = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{out}{err}");
        let result = serde_json::from_str(&out).unwrap();
        assert_published(&result);
        result
    }

    /// Revision of the newest object in etcd.
    fn revision(&self) -> Value {
        let etcd = self.cluster.control_plane.etcd();
        let secrets = [
            "get",
            "--prefix",
            "/registry/secrets/default/",
            "-w",
            "json",
        ];
        let read: Value = serde_json::from_slice(&etcd.ctl(&secrets)).unwrap();
        let revisions = read["kvs"].as_array().unwrap().iter();
        revisions.map(|kv| kv["mod_revision"].clone()).collect()
    }

    #[track_caller]
    fn rollout(&self, code: i32, options: &[&str]) -> Value {
        let servers = [
            self.cluster.control_plane.endpoint(),
            self.second.endpoint(),
        ];
        self.of(&servers, code, options)
    }

    /// Runs the command again, as printed. The cluster is unchanged, so the exit code is the same.
    #[track_caller]
    fn follow(&self, result: &Value, word: &str) {
        let bin = self.directory.path().join("bin");
        if !bin.exists() {
            fs::create_dir(&bin).unwrap();
            let built = Path::new(program().get_program()).canonicalize().unwrap();
            symlink(built, bin.join("bao-kms-provider")).unwrap();
        }
        let steps = result["nextSteps"].as_array().unwrap().iter();
        let commands = steps.filter_map(|step| step["command"].as_str());
        let commands: Vec<&str> = commands.filter(|it| it.contains(word)).collect();
        assert!(!commands.is_empty(), "{result:#}");
        for command in commands {
            let mut shell = Command::new("/bin/sh");
            self.cluster.node.sockets.set_environment(&mut shell);
            let ran = shell
                .args(["-c", command])
                .current_dir(self.directory.path())
                .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
                .output()
                .unwrap();
            let code = ran.status.code().map(i64::from);
            assert_eq!(code, result["exitCode"].as_i64(), "{command}: {ran:?}");
        }
    }

    fn etcd(&self) -> Vec<String> {
        self.cluster.control_plane.etcd().options()
    }

    fn file(&self) -> PathBuf {
        self.second.encryption_file()
    }
}

async fn restart(control_plane: &mut ControlPlane, providers: &[Value]) {
    control_plane.stop().await;
    match providers {
        [] => {
            let file = control_plane.encryption_file();
            if file.exists() {
                fs::remove_file(file).unwrap();
            }
        }
        providers => control_plane.encrypt_with(providers),
    }
    control_plane.start(&[]).await;
}

/// Verdict or cause, phases and next step.
fn said(result: &Value) -> (&str, [&str; 2], Option<&str>) {
    let verdict = result["cause"]
        .as_str()
        .or_else(|| result["verdict"].as_str());
    let phase = |place: usize| result["servers"][place]["phase"].as_str();
    let phases = [0, 1].map(|place| phase(place).unwrap_or("unknown"));
    (verdict.unwrap(), phases, result["next"].as_str())
}

#[tokio::test]
async fn each_phase_is_proven_and_the_next_one_waits_for_every_api_server() {
    let mut pair = Pair::new().await;
    let _provider = pair.cluster.node.serve().await;
    let readers = [identity(), pair.cluster.kms()];
    let writers = [pair.cluster.kms(), identity()];
    let sole = [pair.cluster.kms()];
    let etcd = pair.etcd();
    let etcd: Vec<&str> = etcd.iter().map(String::as_str).collect();

    pair.first(&[]).await;
    pair.second(&[]).await;
    let control_plane = &pair.cluster.control_plane;
    control_plane
        .write(Kind::Secret, "old", "plaintext")
        .await
        .unwrap();
    let result = pair.rollout(0, &[]);
    assert_eq!(
        said(&result),
        ("allowed", ["none", "none"], Some("readers"))
    );
    let early = pair.rollout(4, &["--for", "writers"]);
    assert_eq!(said(&early).0, "rollout_too_early");
    pair.follow(&early, " rollout ");
    // One of two running API servers is not enough.
    let alone = pair.of(&[pair.second.endpoint()], 5, &[]);
    assert_eq!(alone["cause"], "rollout_unknown", "{alone:#}");
    pair.follow(&alone, " rollout ");
    // One that is down is unknown, and the Secret of the other is no proof against it.
    let down = format!("https://127.0.0.1:{}", free_port().unwrap());
    let servers = [pair.cluster.control_plane.endpoint(), down];
    let half = pair.of(&servers, 5, &[]);
    assert_eq!(said(&half), ("rollout_unknown", ["none", "unknown"], None));
    assert_eq!(half["servers"][1]["problem"], "api_server_unreachable");
    assert_eq!(half["unreadable"], json!([]));

    pair.second(&readers).await;
    let result = pair.rollout(4, &[]);
    assert_eq!(
        said(&result),
        ("rollout_lagging", ["none", "readers"], None)
    );
    pair.follow(&result, " rollout ");
    assert_eq!(result["servers"][1]["host"], "cp-2");
    let going_on = pair.rollout(0, &["--for", "readers"]);
    assert_eq!(said(&going_on).0, "allowed");
    pair.rollout(4, &["--for", "writers"]);

    // The mistake: one writes while the other has no provider.
    pair.second(&writers).await;
    let result = pair.rollout(4, &[]);
    assert_eq!(said(&result), ("rollout_unsafe", ["none", "writers"], None));
    pair.follow(&result, " rollout ");
    let unread = &result["unreadable"][0];
    let names = [&unread["writer"], &unread["reader"]];
    assert_eq!(
        names,
        [
            &json!(pair.second.endpoint()),
            &json!(pair.cluster.control_plane.endpoint())
        ]
    );

    pair.first(&readers).await;
    let result = pair.rollout(0, &["--for", "writers"]);
    assert_eq!(said(&result), ("allowed", ["readers", "writers"], None));
    // The stored form says the same as the counters.
    let stored = pair.rollout(0, &[&["--for", "writers"][..], &etcd].concat());
    assert_eq!(stored["servers"], result["servers"]);
    pair.rollout(4, &["--for", "rewrite"]);
    // The one that lags would write as before, so nothing is written.
    let both = ["--resource", "secrets", "--resource", "configmaps"];
    let second = pair.second.endpoint();
    let compared = [&both[..], &["--server", &second]].concat();
    let before = pair.revision();
    let differs = pair.rewrite(4, &compared);
    assert_eq!(differs["cause"], "api_servers_differ", "{differs:#}");
    pair.follow(&differs, " rewrite ");
    assert_eq!(pair.revision(), before);

    pair.first(&writers).await;
    let file = pair.file();
    let files = ["--encryption-config", file.to_str().unwrap()];
    let known = [&files[..], &etcd].concat();
    let result = pair.rollout(0, &known);
    assert_eq!(
        said(&result),
        ("allowed", ["writers", "writers"], Some("rewrite"))
    );
    // The etcd of another cluster has no object outside the provider, and proves nothing for it.
    let other_etcd = Etcd::start().await;
    let options = other_etcd.options();
    let other: Vec<&str> = options.iter().map(String::as_str).collect();
    let wrong_prefix = [&known[..], &["--etcd-prefix", "/other"]].concat();
    for wrong in [[&files[..], &other].concat(), wrong_prefix] {
        let foreign = pair.rollout(5, &wrong);
        assert_eq!(
            said(&foreign),
            ("rollout_unknown", ["unknown", "unknown"], None)
        );
        assert_eq!(foreign["servers"][1]["problem"], "probe_not_stored");
        pair.follow(&foreign, " rollout ");
    }
    // Nothing is written whose stored form could not be proven.
    let before = pair.revision();
    let foreign = pair.rewrite(5, &[&both[..], &other].concat());
    assert_eq!(foreign["cause"], "another_etcd", "{foreign:#}");
    pair.follow(&foreign, " rewrite ");
    assert_eq!(pair.revision(), before);
    // Secrets and ConfigMaps, of which kube-apiserver makes some.
    assert!(result["otherObjects"].as_u64() >= Some(2), "{result:#}");
    let removal = ["--for", "identity-removal"];
    pair.rollout(4, &[&removal[..], &known].concat());
    // etcd alone is no proof while an API server is left out.
    let proof = [&both[..], &etcd].concat();
    let alone = pair.rewrite(0, &proof);
    assert_eq!(alone["verdict"], "inconclusive", "{alone:#}");
    assert_eq!(alone["unexamined"], json!(["cp-2"]));
    // `api_servers_unknown`
    pair.follow(&alone, " rewrite ");
    let rewritten = pair.rewrite(0, &[&compared[..], &etcd].concat());
    assert_eq!(rewritten["verdict"], "proven", "{rewritten:#}");
    // Without etcd, or without the file with the resources, it stays unproven.
    for (open, remedy) in [(&files[..], "--endpoints"), (&etcd, "--encryption-config")] {
        let unproven = pair.rollout(4, &[&removal[..], open].concat());
        assert_eq!(unproven["cause"], "rollout_too_early", "{unproven:#}");
        let limitations = unproven["limitations"].to_string();
        assert!(limitations.contains(remedy), "{limitations}");
    }
    let result = pair.rollout(0, &[&removal[..], &known].concat());
    assert_eq!(said(&result).2, Some("identity-removal"));

    pair.first(&sole).await;
    pair.second(&sole).await;
    let result = pair.rollout(0, &files);
    assert_eq!(said(&result), ("complete", ["identity-removed"; 2], None));
    let names = pair
        .cluster
        .control_plane
        .names(Kind::Secret)
        .await
        .unwrap();
    assert_eq!(names, ["old"], "no Secret of a probe is left");
    let left = pair.cluster.control_plane.etcd().ctl(&[
        "get",
        "--prefix",
        "--keys-only",
        "/registry/secrets/kube-system/bao",
    ]);
    assert!(left.is_empty(), "{}", String::from_utf8_lossy(&left));
}
