//! `verify-backup`: every verdict on real snapshots and a real key, with what an operator is told.

mod untested;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kms_domain::digest::TextHash;
use openbao_lab::admin::transit::{KeyConfig, NewKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    files,
    openbao::{OpenBao, shared_openbao},
    stored::{Sealer, SourceType, random},
    tenant::KEY,
    wait::wait_until,
};

use crate::{
    bulk,
    corpus::{Corpus, OBJECT, sealer},
    node::{Finished, Node, TIMING},
    provider::{Provider, SOON},
    secrets::{files_below, spellings},
};

/// A node with objects of its provider in an etcd of its own.
struct Cluster {
    node: Node,
    provider: Provider,
    etcd: Etcd,
    directory: TempDir,
    /// What was encrypted; must be nowhere.
    secrets: Vec<Vec<u8>>,
}

impl Cluster {
    async fn new() -> Self {
        Self::of(Node::new(TIMING).await).await
    }

    async fn of(node: Node) -> Self {
        Self {
            provider: node.serve().await,
            node,
            etcd: Etcd::start().await,
            directory: TempDir::new().unwrap(),
            secrets: vec![OBJECT.to_vec()],
        }
    }

    async fn sealer(&mut self) -> Sealer {
        let sealer = sealer(&self.node, &self.provider, SourceType::HkdfSeed).await;
        self.secrets.push(sealer.source.to_vec());
        sealer
    }

    /// Stores a secret under a new seed.
    async fn store(&mut self, name: &str) {
        let sealer = self.sealer().await;
        self.put(&sealer, name, name);
    }

    /// Stores what belongs under one name under another.
    fn put(&self, sealer: &Sealer, sealed_for: &str, stored_as: &str) {
        let key = |name| format!("/registry/secrets/default/{name}");
        let value = sealer.value(&key(sealed_for), OBJECT);
        self.etcd.put(&key(stored_as), &value);
    }

    /// Version 1 in two objects, version 2 in one.
    async fn with_two_versions() -> Self {
        let mut cluster = Self::new().await;
        cluster.store("one").await;
        cluster.store("two").await;
        cluster.node.rotate().await;
        cluster.provider.encrypt_under(2).await;
        cluster.store("three").await;
        cluster
    }

    fn snapshot(&self) -> PathBuf {
        let file = self.directory.path().join("etcd.db");
        if !file.exists() {
            self.etcd.save_snapshot(&file);
        }
        file
    }

    fn record(&self) -> PathBuf {
        let file = self.directory.path().join("record.json");
        let snapshot = self.snapshot();
        let (out, etcd) = (file.to_str().unwrap(), snapshot.to_str().unwrap());
        let done = self
            .node
            .run(&["record-backup", "--out", out, "--etcd-snapshot", etcd]);
        assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
        file
    }

    fn verify(&self, options: &[&str]) -> Finished {
        let snapshot = self.snapshot();
        let of = [
            "verify-backup",
            "--etcd-snapshot",
            snapshot.to_str().unwrap(),
        ];
        let done = self.node.run(&[&of[..], options].concat());
        let mut written = vec![done.out.clone(), done.err.clone()];
        files_below(self.directory.path(), &mut written);
        files_below(&self.node.state_dir(), &mut written);
        for secret in &self.secrets {
            for spelling in spellings(secret) {
                let found = written.iter().find(|text| text.contains(&spelling));
                assert_eq!(found, None, "a secret is in the output or in a file");
            }
        }
        done
    }

    /// The report in both forms, which must agree on exit code and verdict.
    fn verdict(&self, code: i32, verdict: &str, options: &[&str]) -> (String, Value) {
        let text = self.verify(options);
        assert_eq!(text.code, Some(code), "{}{}", text.out, text.err);
        let first = format!("verify-backup: {verdict}\n");
        assert!(text.out.starts_with(&first), "{}", text.out);
        let json = self.verify(&[options, &["--output", "json"]].concat());
        assert_eq!(json.code, Some(code), "{}", json.err);
        let json: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(json["schemaVersion"], "v1");
        assert_eq!(json["command"], "verify-backup");
        assert_eq!(json["verdict"], verdict);
        if verdict != "compatible" {
            assert!(
                text.out.contains("\nnext: ") || json["etcd"]["objects"] == 0,
                "{}",
                text.out
            );
            assert!(
                text.out.contains("\ndo not delete or overwrite"),
                "{}",
                text.out
            );
        }
        (text.out, json)
    }
}

/// The row of a version, or the only one without.
fn row(report: &Value, version: impl Into<Value>) -> Value {
    let version = version.into();
    let rows = report["keyIds"].as_array().unwrap().iter();
    let mut rows = rows.filter(|row| row["transitVersion"] == version);
    let row = rows.next().unwrap_or_else(|| panic!("{report:#}"));
    assert!(rows.next().is_none(), "{report:#}");
    row.clone()
}

fn status(report: &Value, id: &str) -> String {
    let checks = report["checks"].as_array().unwrap().iter();
    let mut checks = checks.filter(|check| check["id"] == id);
    let check = checks.next().unwrap_or_else(|| panic!("{report:#}"));
    check["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pair_that_belongs_together_is_compatible_from_a_file_and_live() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let snapshot = corpus.snapshot("etcd.db");
    let file = ["--etcd-snapshot".to_owned(), snapshot.display().to_string()];
    for source in [&file[..], &corpus.live()[..]] {
        let source: Vec<&str> = source.iter().map(String::as_str).collect();
        let of = [&["verify-backup"], &source[..]].concat();
        let json = [&of[..], &["--depth", "data", "--output", "json"]].concat();
        let report = node.run(&json).json();
        assert_eq!(report["verdict"], "compatible");
        assert_eq!(report["etcd"]["objects"], 6);
        assert_eq!(report["etcd"]["underOtherNames"], json!({"another": 1}));
        let one = row(&report, 1);
        assert_eq!(one["status"], "live");
        assert_eq!(one["deks"], json!({"proven": 3, "failed": 0, "untried": 0}));
        assert_eq!(one["data"], json!({"proven": 3, "failed": 0, "untried": 0}));
        assert_eq!(one["resources"], json!({"configmaps": 1, "secrets": 2}));
        let two = row(&report, 2);
        assert_eq!(two["data"], json!({"proven": 3, "failed": 0, "untried": 0}));
        let shallow = node.run(&of);
        assert_eq!(shallow.code, Some(0), "{}", shallow.err);
        assert!(
            shallow.out.contains("limitation: No object was opened"),
            "{}",
            shallow.out
        );
    }
}

#[tokio::test]
async fn a_hundred_thousand_objects_of_fifty_seeds_are_opened_one_by_one() {
    const OBJECTS: usize = 100_000;
    let mut cluster = Cluster::new().await;
    let mut sealers = Vec::new();
    for _ in 0..50 {
        sealers.push(cluster.sealer().await);
    }
    let all = (0..OBJECTS).map(|number| {
        let key = format!("/registry/secrets/default/{number:06}");
        let value = sealers[number % sealers.len()].value(&key, OBJECT);
        (key, value)
    });
    bulk::put(&cluster.etcd, all).await;
    let snapshot = cluster.snapshot();
    let of = [
        "--etcd-snapshot",
        snapshot.to_str().unwrap(),
        "--output",
        "json",
    ];
    let scanned = cluster.node.run(&[&["scan-etcd"], &of[..]].concat());
    assert_eq!(scanned.json()["keys"], OBJECTS);
    let verified = [&["verify-backup", "--depth", "data"], &of[..]].concat();
    let report = cluster.node.run(&verified).json();
    let one = row(&report, 1);
    assert_eq!(
        one["deks"],
        json!({"proven": 50, "failed": 0, "untried": 0})
    );
    assert_eq!(
        one["data"],
        json!({"proven": OBJECTS, "failed": 0, "untried": 0})
    );
}

#[tokio::test]
async fn of_many_objects_each_is_opened_once_and_the_same_few_are_named() {
    let mut cluster = Cluster::new().await;
    let sealer = cluster.sealer().await;
    let key = |number: usize| format!("/registry/secrets/default/{number:05}");
    let objects = (0..5000).map(|number| {
        // Every tenth was sealed for the name after its own.
        let sealed_for = key(number + usize::from(number % 10 == 0));
        (key(number), sealer.value(&sealed_for, OBJECT))
    });
    bulk::put(&cluster.etcd, objects).await;
    let large = [OBJECT, &[b' '; 300_000]].concat();
    for name in ["large-1", "large-2"] {
        let key = format!("/registry/configmaps/default/{name}");
        let value = sealer.value("/registry/configmaps/default/large-1", &large);
        cluster.etcd.put(&key, &value);
    }
    let options = ["--depth", "data", "--show-names"];
    let (_, report) = cluster.verdict(4, "incompatible", &options);
    let one = row(&report, 1);
    let opened = json!({"proven": 4501, "failed": 501, "untried": 0});
    assert_eq!(one["data"], opened);
    let unopened = json!({"configmaps": 1, "secrets": 500});
    assert_eq!(one["unopenedResources"], unopened);
    let last_written = (0..9).map(|tens| key(4990 - 10 * tens));
    let large = "/registry/configmaps/default/large-2".to_owned();
    let named: Vec<_> = [large].into_iter().chain(last_written).collect();
    assert_eq!(one["unopenedNames"], json!(named));
}

/// Runs the command with a terminal for its standard error and output, for a minute at most.
fn on_a_terminal(command: &Command) -> String {
    through_python(
        "import pty, signal, sys; signal.alarm(60); sys.exit(pty.spawn(sys.argv[1:]) >> 8)",
        command,
    )
}

/// Runs the command, and returns the most memory that it had, in bytes.
fn peak_memory(command: &Command) -> u64 {
    let kibibytes = through_python(
        "import resource, subprocess, sys\n\
         done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n\
         print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
         sys.exit(done.returncode)",
        command,
    );
    kibibytes.trim().parse::<u64>().unwrap() << 10
}

/// What the script prints that runs the command; both must succeed.
fn through_python(script: &str, command: &Command) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(command.get_program());
    python.args(command.get_args()).stdin(Stdio::null());
    python.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let done = Finished::from(python.output().unwrap());
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    done.out
}

#[tokio::test]
async fn a_terminal_shows_how_far_the_work_has_come_and_a_pipe_shows_nothing() {
    let mut cluster = Cluster::new().await;
    let mut sealers = Vec::new();
    for _ in 0..300 {
        sealers.push(cluster.sealer().await);
    }
    let objects = sealers.iter().enumerate().map(|(number, sealer)| {
        let key = format!("/registry/secrets/default/{number}");
        let value = sealer.value(&key, OBJECT);
        (key, value)
    });
    bulk::put(&cluster.etcd, objects).await;
    let (_, report) = cluster.verdict(0, "compatible", &["--depth", "data"]);
    assert_eq!(row(&report, 1)["deks"]["proven"], 300);
    assert_eq!(cluster.verify(&[]).err, "");

    let snapshot = cluster.snapshot();
    let file = snapshot.to_str().unwrap();
    let verify = ["verify-backup", "--etcd-snapshot", file];
    let shown = on_a_terminal(&cluster.node.program(&verify));
    // Two threads tell how far the reading has come.
    for part in [
        "reading etcd: ",
        "trying encrypted DEKs: 42 %",
        "trying encrypted DEKs: 100 %",
    ] {
        assert!(shown.contains(&format!("\r{part}")), "{shown}");
    }
}

/// Kubernetes 1.25 made a DEK for each write, so a cluster may have as many as objects.
#[tokio::test]
async fn each_of_thousands_of_deks_costs_little_memory() {
    const BATCH: usize = 100;
    const FEW: usize = 1_000;
    const MANY: usize = 11_000;
    let mut cluster = Cluster::new().await;
    let sealer = cluster.sealer().await;
    let associated_data = cluster.node.key_id().await["associatedDataBase64"].clone();
    let path = format!("{}/encrypt/{KEY}", cluster.node.tenant.transit_mount);
    let admin = shared_openbao().await.admin();
    let mut peaks = Vec::new();
    for (first, end) in [(0, FEW), (FEW, MANY)] {
        for start in (first..end).step_by(BATCH) {
            let sources: Vec<[u8; 32]> = (0..BATCH).map(|_| random()).collect();
            let item = |source| {
                json!({
                    "plaintext": STANDARD.encode(source),
                    "associated_data": associated_data,
                })
            };
            let batch = json!({"batch_input": sources.iter().map(item).collect::<Vec<_>>()});
            let answer: Value = admin.write(&path, &batch).await.unwrap().json().unwrap();
            let answers = answer["data"]["batch_results"].as_array().unwrap();
            let objects = sources.iter().zip(answers).enumerate();
            let objects = objects.map(|(number, (source, answer))| {
                let key = format!("/registry/secrets/default/{}", start + number);
                let ciphertext = answer["ciphertext"].as_str().unwrap();
                let of_its_own = Sealer {
                    source: *source,
                    encrypted_source: ciphertext.as_bytes().to_vec(),
                    ..sealer.clone()
                };
                let value = of_its_own.value(&key, OBJECT);
                (key, value)
            });
            bulk::put(&cluster.etcd, objects).await;
        }
        let file = cluster.directory.path().join(format!("{end}.db"));
        cluster.etcd.save_snapshot(&file);
        let verify = ["verify-backup", "--depth", "data", "--etcd-snapshot"];
        let verify = [&verify[..], &[file.to_str().unwrap()]].concat();
        peaks.push(peak_memory(&cluster.node.program(&verify)));
    }
    let more = u64::try_from(MANY - FEW).unwrap();
    let each = peaks[1].saturating_sub(peaks[0]) / more;
    assert!(each < 1024, "{each} bytes for each DEK: {peaks:?}");
}

#[tokio::test]
async fn an_openbao_from_before_a_rotation_lacks_the_newest_version() {
    let server = OpenBao::start().await;
    let mut cluster = Cluster::of(Node::on(&server, TIMING).await).await;
    cluster.store("one").await;
    let before = cluster.directory.path().join("before.snap");
    server.save_snapshot(&before).await;
    let mount = cluster.node.tenant.transit_mount.clone();
    server.admin().rotate_key(&mount, KEY).await.unwrap();
    cluster.provider.encrypt_under(2).await;
    cluster.store("two").await;
    cluster.verdict(0, "compatible", &["--depth", "data"]);

    server.return_to_snapshot(&before).await;
    let (text, report) = cluster.verdict(4, "incompatible", &["--depth", "data"]);
    assert_eq!(row(&report, 1)["lostObjects"], 0);
    assert_eq!(row(&report, 1)["data"]["proven"], 1);
    let newest = row(&report, 2);
    assert_eq!(newest["status"], "newer_than_latest");
    assert_eq!(newest["lostObjects"], 1);
    assert!(text.contains("1 of 2 objects"), "{text}");
    assert_eq!(newest["resources"], json!({"secrets": 1}));
    assert_eq!(newest["cause"], "openbao_rolled_back");
    let state = cluster.node.inspect();
    let second = state["records"][0]["transitVersionCreatedAtUnix"].as_i64();
    let made = Timestamp::from_second(second.unwrap()).unwrap();
    assert!(
        text.contains(&format!(
            "has version 2 of the key, which was made at {made}"
        )),
        "{text}"
    );
    assert!(
        text.contains("do not rotate the key to reach the missing numbers"),
        "{text}"
    );
}

#[tokio::test]
async fn a_raised_minimum_is_mended_by_the_very_command_that_is_shown() {
    let cluster = Cluster::with_two_versions().await;
    let (_, report) = cluster.verdict(0, "compatible", &[]);
    assert_eq!(status(&report, "registry.state"), "pass");
    let minimum = |version| KeyConfig {
        min_decryption_version: Some(version),
        ..KeyConfig::default()
    };
    cluster.node.configure_key(minimum(2)).await;
    let (text, report) = cluster.verdict(4, "compatible-after", &[]);
    assert_eq!(row(&report, 1)["status"], "hidden");
    assert_eq!(report["etcd"]["lostObjects"], 0);
    assert_eq!(report["etcd"]["untestedObjects"], 2);
    assert!(text.contains("2 of 3 objects"), "{text}");
    assert!(text.contains("the other one can be read"), "{text}");

    let carry_out = async |command: &Value| {
        let words: Vec<_> = command.as_str().unwrap().split(' ').collect();
        let [bao, write, .., path, setting] = words[..] else {
            panic!("{words:?}");
        };
        assert_eq!((bao, write), ("bao", "write"));
        assert!(
            words.iter().any(|it| it.starts_with("-address=")),
            "{words:?}"
        );
        let (name, value) = setting.split_once('=').unwrap();
        let value: u64 = value.parse().unwrap();
        let admin = shared_openbao().await.admin();
        admin.write(path, &json!({name: value})).await.unwrap();
    };
    let remedy = &report["remedies"][0];
    assert!(text.contains(remedy["command"].as_str().unwrap()), "{text}");
    assert!(text.contains(remedy["revert"].as_str().unwrap()), "{text}");
    carry_out(&remedy["command"]).await;
    cluster.verdict(0, "compatible", &["--depth", "data"]);
    carry_out(&remedy["revert"]).await;
    cluster.verdict(4, "compatible-after", &[]);
    carry_out(&remedy["command"]).await;
}

#[tokio::test]
async fn a_trimmed_version_is_lost() {
    let cluster = Cluster::with_two_versions().await;
    let limits = KeyConfig {
        min_decryption_version: Some(2),
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    cluster.node.configure_key(limits).await;
    let mount = &cluster.node.tenant.transit_mount;
    let admin = shared_openbao().await.admin();
    admin.trim_key(mount, KEY, 2).await.unwrap();
    let (text, report) = cluster.verdict(4, "incompatible", &[]);
    assert_eq!(row(&report, 1)["status"], "trimmed");
    assert_eq!(report["etcd"]["lostObjects"], 2);
    assert!(text.contains("min_available_version 2"), "{text}");
}

#[tokio::test]
async fn a_lost_key_and_one_made_anew_are_told_apart() {
    let mut cluster = Cluster::new().await;
    cluster.store("one").await;
    let record = cluster.record();
    let record = ["--record", record.to_str().unwrap()];
    let deletable = KeyConfig {
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    let original = cluster.node.key_id().await["keyId"].clone();
    cluster.node.configure_key(deletable).await;
    let (_, report) = cluster.verdict(5, "inconclusive", &[]);
    assert_eq!(status(&report, "openbao.key"), "fail");
    let admin = shared_openbao().await.admin();
    let mount = &cluster.node.tenant.transit_mount;
    admin.delete_key(mount, KEY).await.unwrap();
    let (text, report) = cluster.verdict(4, "incompatible", &record);
    assert_eq!(row(&report, 1)["status"], "no_key");
    assert!(text.contains("do not create a key of that name"), "{text}");

    // Creation is recorded in whole seconds, so another second must be waited for.
    wait_until(SOON, "a key of another second", async || {
        let new = NewKey::default();
        admin.create_key(mount, KEY, &new).await.unwrap();
        if cluster.node.key_id().await["keyId"] != original {
            return true;
        }
        let deletable = KeyConfig {
            deletion_allowed: Some(true),
            ..KeyConfig::default()
        };
        cluster.node.configure_key(deletable).await;
        admin.delete_key(mount, KEY).await.unwrap();
        false
    })
    .await;
    let (text, report) = cluster.verdict(4, "incompatible", &record);
    assert_eq!(row(&report, 1)["status"], "creation_time_mismatch");
    assert!(text.contains("by a record, state file or peer"), "{text}");
    assert!(
        text.contains("do not accept the present key as the original one"),
        "{text}"
    );
    // The changed creation time proves another key: it stands first, in RFC 3339.
    let first = &report["drift"][0];
    assert_eq!(first["field"], "versions[1].createdAtUnix");
    assert_eq!(first["source"], "key");
    let second = first["found"].as_str().unwrap().parse().unwrap();
    let live = Timestamp::from_second(second).unwrap();
    let (_, drift) = text.split_once("\nchanged since the record of ").unwrap();
    let first = drift.lines().nth(2).unwrap();
    assert!(
        first.contains("key in OpenBao  versions[1].createdAt "),
        "{text}"
    );
    assert!(first.ends_with(&live.to_string()), "{text}");
    assert_eq!(status(&report, "record.drift"), "fail");
}

#[tokio::test]
async fn every_name_that_differs_is_told() {
    let mut cluster = Cluster::new().await;
    cluster.store("one").await;
    let record = cluster.record();
    let record = ["--record", record.to_str().unwrap()];
    // This node's own state would tell as well as the record.
    let mut peer = cluster.node.peer(TIMING);
    std::mem::swap(&mut cluster.node, &mut peer);
    peer.config["transit"]["keyIdScope"]["clusterId"] = json!("renamed");
    let snapshot = cluster.snapshot();
    let told = peer.run(&[
        "verify-backup",
        "--etcd-snapshot",
        snapshot.to_str().unwrap(),
    ]);
    let field = "transit.keyIdScope.clusterId differs";
    assert!(told.out.contains(field), "{}", told.out);
    peer.config["transit"]["keyIdScope"]["clusterId"] = json!("cluster-test");
    let right = cluster.node.config.clone();
    for (name, field, told_by_record_only) in [
        (
            "/transit/keyIdScope/transitMountId",
            "transit.keyIdScope.transitMountId",
            false,
        ),
        (
            "/transit/keyIdScope/keyLineageId",
            "transit.keyIdScope.keyLineageId",
            false,
        ),
        ("/openbao/namespace", "openbao.namespace", false),
        (
            "/transit/keyIdScope/clusterId",
            "transit.keyIdScope.clusterId",
            true,
        ),
        ("/openbao/instanceId", "openbao.instanceId", true),
    ] {
        let (parent, member) = name.rsplit_once('/').unwrap();
        cluster.node.config.pointer_mut(parent).unwrap()[member] =
            json!("ffeeddccbbaa99887766554433221100");
        let (_, report) = cluster.verdict(4, "incompatible", &[]);
        let code = if told_by_record_only {
            "creation_time_mismatch"
        } else {
            "identity_mismatch"
        };
        let found = &report["keyIds"][0];
        assert_eq!(found["status"], code, "{name}: {report:#}");
        let message = found["message"].as_str().unwrap();
        assert_eq!(
            message.contains(&format!(": {field} differs")),
            !told_by_record_only,
            "{message}"
        );
        let (text, report) = cluster.verdict(4, "incompatible", &record);
        let message = report["keyIds"][0]["message"].as_str().unwrap();
        assert!(message.contains(&format!(": {field} differs")), "{message}");
        assert!(text.contains("\nchanged since the record of "), "{text}");
        cluster.node.config = right.clone();
    }
    cluster.node.config["transit"]["keyIdScope"]["providerName"] = json!("renamed");
    let (text, report) = cluster.verdict(5, "inconclusive", &record);
    assert!(text.contains("KMS v2 providers there: kms-test"), "{text}");
    let renamed = json!({
        "source": "configuration",
        "field": "providerName",
        "recorded": "kms-test",
        "found": "renamed",
    });
    let drift = report["drift"].as_array().unwrap();
    assert!(drift.contains(&renamed), "{report:#}");
    assert_eq!(report["cause"], "other_provider");
    cluster.node.config = right;
    let (text, report) = cluster.verdict(0, "compatible", &record);
    // This node has no state yet.
    let missing = [
        "activeTransitVersion",
        "activeKeyIdHash",
        "state.generation",
        "state.hash",
        "state.checkpoint",
    ];
    assert_eq!(report["notCompared"], json!(missing));
    assert_eq!(report["drift"], json!([]));
    assert_eq!(status(&report, "record.drift"), "skip");
    let listed = format!("; not compared: {}", missing.join(", "));
    assert!(text.contains(&listed), "{text}");
}

#[tokio::test]
async fn another_clusters_snapshot_is_not_of_this_pair() {
    let mut other = Cluster::new().await;
    other.store("one").await;
    let mut node = Node::new(TIMING).await;
    // The same names but one, as two clusters have that were installed from one template.
    node.config["transit"]["keyIdScope"] = other.node.config["transit"]["keyIdScope"].clone();
    node.config["transit"]["keyIdScope"]["clusterId"] = json!("cluster-b");
    other.node = node;
    let (text, report) = other.verdict(4, "incompatible", &[]);
    assert_eq!(row(&report, 1)["status"], "creation_time_mismatch");
    assert!(
        text.contains("another providerName, clusterId or instanceId"),
        "{text}"
    );
}

/// OpenBao answers 404 for each of them, and only a missing key is one.
#[tokio::test]
async fn a_missing_mount_or_namespace_is_no_lost_key() {
    let mut cluster = Cluster::new().await;
    cluster.store("one").await;
    let token = cluster.directory.path().join("token");
    let root = &shared_openbao().await.secrets().root_token;
    files::replace(&token, root.expose().as_bytes(), 0o600);
    let token = ["--token-file", token.to_str().unwrap()];
    cluster.verdict(0, "compatible", &token);

    let namespace = [&token[..], &["--openbao-namespace", "nowhere"]].concat();
    let (_, report) = cluster.verdict(5, "inconclusive", &namespace);
    assert_eq!(report["cause"], "mount_missing", "{report:#}");
    assert_eq!(report["data"]["impact"], "unknown");
    let right = cluster.node.config.clone();
    cluster.node.config["transit"]["mountPath"] = json!("nowhere");
    let (_, report) = cluster.verdict(5, "inconclusive", &token);
    assert_eq!(report["cause"], "mount_missing", "{report:#}");
    cluster.node.config = right.clone();
    cluster.node.config["transit"]["keyName"] = json!("nothing");
    let (_, report) = cluster.verdict(4, "incompatible", &token);
    assert_eq!(report["cause"], "key_lost", "{report:#}");
    cluster.node.config = right;
}

/// A provider of another cluster with the same names otherwise: the state of this node has the live version,
/// so the key was not recreated.
#[tokio::test]
async fn an_object_of_another_cluster_is_no_sign_of_a_recreated_key() {
    let mut cluster = Cluster::new().await;
    cluster.store("own").await;
    let mut other = Node::new(TIMING).await;
    other.config["transit"]["keyIdScope"] = cluster.node.config["transit"]["keyIdScope"].clone();
    other.config["transit"]["keyIdScope"]["clusterId"] = json!("cluster-b");
    let provider = other.serve().await;
    let sealer = sealer(&other, &provider, SourceType::HkdfSeed).await;
    cluster.put(&sealer, "other", "other");
    let (_, report) = cluster.verdict(4, "incompatible", &[]);
    assert_eq!(report["cause"], "other_identity", "{report:#}");
    assert_ne!(report["data"]["impact"], "lost_without_backup");
}

#[tokio::test]
async fn an_object_that_was_moved_shows_only_when_it_is_opened() {
    let mut cluster = Cluster::new().await;
    let sealer = cluster.sealer().await;
    cluster.put(&sealer, "one", "one");
    cluster.put(&sealer, "one", "moved");
    cluster.verdict(0, "compatible", &[]);
    let (text, report) = cluster.verdict(4, "incompatible", &["--depth", "data"]);
    let found = row(&report, 1);
    assert_eq!(
        found["data"],
        json!({"proven": 1, "failed": 1, "untried": 0})
    );
    assert_eq!(found["unopenedResources"], json!({"secrets": 1}));
    assert!(!text.contains("/registry/"), "{text}");
    let named = cluster.verify(&["--depth", "data", "--show-names"]);
    assert!(
        named
            .out
            .contains("  1        /registry/secrets/default/moved\n"),
        "{}",
        named.out
    );
}

#[tokio::test]
async fn edited_annotations_and_exchanged_deks_never_open() {
    let mut cluster = Cluster::new().await;
    cluster.store("good").await;
    let mut edited = cluster.sealer().await;
    let hash = |name: &String| name.starts_with("key-id-hash");
    let mut annotations = edited.annotations.iter_mut();
    let (_, value) = annotations.find(|(name, _)| hash(name)).unwrap();
    *value = b"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".to_vec();
    cluster.put(&edited, "edited", "edited");
    let (_, report) = cluster.verdict(4, "incompatible", &[]);
    assert_eq!(row(&report, Value::Null)["status"], "annotation_mismatch");
    assert_eq!(row(&report, 1)["lostObjects"], 0);

    cluster
        .etcd
        .put("/registry/secrets/default/edited", b"k8s\0 plain");
    fs::remove_file(cluster.snapshot()).unwrap();
    let mut exchanged = cluster.sealer().await;
    let mount = &cluster.node.tenant.transit_mount;
    let admin = shared_openbao().await.admin();
    let body = json!({"plaintext": "c2VlZA=="});
    let path = format!("{mount}/encrypt/{KEY}");
    let answer: Value = admin.write(&path, &body).await.unwrap().json().unwrap();
    let unbound = answer["data"]["ciphertext"].as_str().unwrap();
    exchanged.encrypted_source = unbound.as_bytes().to_vec();
    cluster.put(&exchanged, "exchanged", "exchanged");
    let (text, report) = cluster.verdict(4, "incompatible", &["--depth", "data"]);
    let found = row(&report, 1);
    assert_eq!(
        found["deks"],
        json!({"proven": 1, "failed": 1, "untried": 0})
    );
    assert_eq!(found["dekProblems"], json!({"not_decrypted": 1}));
    assert_eq!(found["lostObjects"], 1);
    assert!(text.contains("do not edit values in etcd"), "{text}");

    // The printed command has the source of the run.
    let options = cluster.etcd.options();
    let live = ["verify-backup".to_owned()].into_iter().chain(options);
    let live: Vec<String> = live.collect();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    let told = cluster.node.run(&live);
    told.assert_told(4, &["name the first damaged", "verify-backup --endpoints "]);
    let mut lines = told.out.lines().map(str::trim);
    let printed = lines.find(|line| line.starts_with("bao-kms-provider verify-backup --endpoints"));
    let words = shlex::split(printed.unwrap()).unwrap();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let named = cluster.node.run_printed(&words);
    named.assert_told(4, &["/registry/secrets/default/exchanged"]);
}

#[tokio::test]
async fn thousands_of_invented_key_ids_fill_no_report_and_leave_its_sums_exact() {
    const INVENTED: u64 = 3000;
    let mut cluster = Cluster::new().await;
    cluster.store("good").await;
    let real = cluster.sealer().await;
    let objects = (0..INVENTED).map(|number| {
        let mut invented = real.clone();
        invented.key_id = format!("obk2.{}", TextHash::of(&number.to_string()));
        let hash = TextHash::of(&invented.key_id).to_string();
        for (name, value) in &mut invented.annotations {
            match name.split_once('.').unwrap().0 {
                "key-id-hash" => *value = hash.clone().into(),
                "transit-key-version" => *value = (number + 2).to_string().into(),
                _ => {}
            }
        }
        let key = format!("/registry/r{number}/default/one");
        let value = invented.value(&key, OBJECT);
        (key, value)
    });
    bulk::put(&cluster.etcd, objects).await;

    let (text, report) = cluster.verdict(4, "incompatible", &[]);
    assert_eq!(row(&report, 1)["status"], "live");
    let shown = report["keyIds"].as_array().unwrap();
    assert_eq!(shown.len(), 1000);
    assert_eq!(shown[1]["status"], "newer_than_latest");
    let rest = INVENTED - 999;
    assert_eq!(
        report["keyIdsLeftOut"],
        json!({"rows": rest, "objects": rest})
    );
    assert_eq!(report["etcd"]["objects"], INVENTED + 1);
    assert_eq!(report["etcd"]["lostObjects"], INVENTED);
    assert!(text.contains("\n  1        live "), "{text}");
    assert!(
        text.contains("\n  and 2901 more key_ids of 2901 objects\n"),
        "{text}"
    );
    // One step for all versions: a backup with the highest has the others.
    let highest = INVENTED + 1;
    let step = format!("\nnext: take one that has version {highest} of the key\n");
    assert!(text.contains(&step), "{text}");
    assert_eq!(text.matches("\nnext: take one that has").count(), 1);
    assert!(text.len() < 100_000, "{text}");

    let file = cluster.snapshot();
    let scan = ["scan-etcd", "--etcd-snapshot", file.to_str().unwrap()];
    let text = cluster.node.run(&scan).out;
    let last = "\n  and 2901 more rows of 2901 objects\n";
    assert_eq!(text.matches(last).count(), 2, "{text}");
    assert!(text.contains("  derived  "), "{text}");
    let report = cluster
        .node
        .run(&[&scan[..], &["--output", "json"]].concat());
    let report = report.json();
    assert_eq!(report["keys"], INVENTED + 1);
    for (rows, left_out) in [
        ("resources", "resourcesLeftOut"),
        ("keyIds", "keyIdsLeftOut"),
    ] {
        let shown = report[rows].as_array().unwrap().iter();
        let objects: u64 = shown.map(|row| row["objects"].as_u64().unwrap()).sum();
        let left_out = report[left_out]["objects"].as_u64().unwrap();
        assert_eq!(objects + left_out, INVENTED + 1, "{rows}");
    }
}

#[tokio::test]
async fn a_changed_record_or_a_damaged_snapshot_is_not_believed() {
    let mut cluster = Cluster::new().await;
    cluster.store("one").await;
    let record = cluster.record();
    let text = fs::read_to_string(&record).unwrap();
    let changed = text.replace(
        "\"clusterId\": \"cluster-test\"",
        "\"clusterId\": \"cluster-best\"",
    );
    assert_ne!(changed, text);
    files::replace(&record, changed.as_bytes(), 0o640);
    cluster
        .verify(&["--record", record.to_str().unwrap()])
        .assert_refused(4, &["is invalid", "the record was changed", "next: "]);

    let snapshot = cluster.snapshot();
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    files::replace(&snapshot, &bytes, 0o640);
    let damaged = cluster.verify(&["--output", "json"]);
    assert_eq!(damaged.code, Some(4), "{}", damaged.err);
    let report: Value = serde_json::from_str(&damaged.out).unwrap();
    assert_eq!(report["verdict"], "incompatible");
    assert_eq!(report["keyIds"], json!([]));
    let absent = cluster
        .node
        .run(&["verify-backup", "--etcd-snapshot", "/nonexistent"]);
    assert_eq!(absent.code, Some(5), "{}", absent.err);
}

#[tokio::test]
async fn without_openbao_a_record_tells_versions_and_proves_nothing() {
    let server = OpenBao::start().await;
    let mut cluster = Cluster::of(Node::on(&server, TIMING).await).await;
    cluster.store("one").await;
    let record = cluster.record();
    let _stopped = server.stop().await;
    // Of another node, which has no state.
    cluster.node = cluster.node.peer(TIMING);
    let (text, report) = cluster.verdict(5, "inconclusive", &[]);
    assert_eq!(row(&report, 1)["status"], "unknown");
    assert!(
        text.contains("Without OpenBao and without a record"),
        "{text}"
    );

    let record = ["--record", record.to_str().unwrap()];
    let (text, report) = cluster.verdict(5, "inconclusive", &record);
    let found = row(&report, 1);
    assert_eq!(found["status"], "known");
    assert_eq!(
        found["deks"],
        json!({"proven": 0, "failed": 0, "untried": 1})
    );
    assert!(
        text.contains("OpenBao could decrypt it when the record was made"),
        "{text}"
    );
    assert!(
        text.contains("It cannot show that this OpenBao has their key material"),
        "{text}"
    );
    assert!(text.contains("none of them was found to be lost"), "{text}");
}

#[tokio::test]
async fn an_openbao_that_does_not_decrypt_leaves_it_open() {
    let mut cluster = Cluster::new().await;
    cluster.store("one").await;
    let denied = |policy: String| policy.replace("/decrypt/", "/denied/");
    cluster.node.grant(denied).await;
    let (text, report) = cluster.verdict(5, "inconclusive", &["--depth", "data"]);
    let found = row(&report, 1);
    assert_eq!(found["status"], "live");
    assert_eq!(
        found["deks"],
        json!({"proven": 0, "failed": 0, "untried": 1})
    );
    assert_eq!(
        found["data"],
        json!({"proven": 0, "failed": 0, "untried": 1})
    );
    assert!(
        text.contains("OpenBao did not decrypt to the end"),
        "{text}"
    );
    assert!(
        text.contains("write the policy of the role again"),
        "{text}"
    );
    cluster.node.grant(|policy| policy).await;
    cluster.verdict(0, "compatible", &["--depth", "data"]);
}
