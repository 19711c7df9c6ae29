//! Objects of which a verdict must claim neither safety nor loss: versions that OpenBao hides, other
//! provider names, damage that is not this provider's, versions that this node has removed.

use rustix::process::Signal;
use testkit::openbao::binary;

use super::*;

const GARBAGE: &[u8] = b"k8s:enc:kms:v2:lab-kms2:qqqqqqqqqqqqqqqqqqqq";

/// State and checkpoint are gone.
fn lose_state(node: &Node) {
    for file in [node.state_file(), node.checkpoint()] {
        fs::remove_file(file).unwrap();
    }
}

fn hiding() -> KeyConfig {
    KeyConfig {
        min_decryption_version: Some(2),
        ..KeyConfig::default()
    }
}

impl Cluster {
    /// A report of another command about the same etcd, as JSON, and its text.
    fn report(&self, node: &Node, command: &[&str], code: i32) -> (String, Value) {
        let snapshot = self.snapshot();
        let of = [command, &["--etcd-snapshot", snapshot.to_str().unwrap()]].concat();
        let text = node.run(&of);
        assert_eq!(text.code, Some(code), "{}{}", text.out, text.err);
        let json = node.run(&[&of[..], &["--output", "json"]].concat());
        assert_eq!(json.code, Some(code), "{}{}", json.out, json.err);
        (text.out, serde_json::from_str(&json.out).unwrap())
    }

    /// What a drill says of the key as it is now.
    async fn drill(&self, code: i32) -> (String, Value) {
        let server = shared_openbao().await;
        let path = |name: &str| self.directory.path().join(name);
        let (backup, share, work) = (path("openbao.snap"), path("share"), path("work"));
        server.save_snapshot(&backup).await;
        server.write_unseal_key(&share);
        files::directory(&work, 0o700);
        let bao = binary();
        let options = [
            ("--openbao-snapshot", backup.as_path()),
            ("--unseal-key-file", &share),
            ("--work-dir", &work),
            ("--bao", bao.path()),
        ];
        let options = options.map(|(option, path)| [option, path.to_str().unwrap()]);
        let command = [&["drill"], &options.concat()[..]].concat();
        let done = self.report(&self.node, &command, code);
        // The share is a secret, and no output of the commands that follow.
        fs::remove_file(share).unwrap();
        done
    }
}

#[tokio::test]
async fn a_hidden_version_of_a_recreated_key_is_untested_and_then_lost() {
    let mut cluster = Cluster::new().await;
    cluster.store("one").await;
    let record = cluster.record();
    let record = ["--record", record.to_str().unwrap()];
    cluster.node.recreate_key().await;
    cluster.node.rotate().await;
    cluster.node.configure_key(hiding()).await;
    for options in [&[][..], &record[..]] {
        let (text, report) = cluster.verdict(4, "compatible-after", options);
        assert!(!text.contains("no object is lost"), "{text}");
        assert!(text.contains("are untested until"), "{text}");
        assert!(text.contains("limitation: OpenBao neither lists"), "{text}");
        assert_eq!(report["etcd"]["untestedObjects"], 1);
    }
    // A drill lowers the limit in its copy, and so finds out.
    let (text, report) = cluster.drill(4).await;
    assert_eq!(report["verdict"], "incompatible");
    assert!(text.contains("1 of 1 object of provider"), "{text}");
    let (text, report) = cluster.report(&cluster.node, &["triage"], 4);
    assert_eq!(report["verdict"], "versions_below_minimum");
    assert_eq!(report["data"]["impact"], "unknown");
    assert!(!text.contains("nothing is lost"), "{text}");
    assert!(!text.contains("restore anything"), "{text}");
    let stateless = cluster.node.peer(TIMING);
    let (text, report) = cluster.report(&stateless, &["recover-state"], 4);
    assert!(report["planHash"].is_null(), "{report:#}");
    assert!(text.contains("below min_decryption_version 2"), "{text}");
    let lowered = KeyConfig {
        min_decryption_version: Some(1),
        ..KeyConfig::default()
    };
    cluster.node.configure_key(lowered).await;
    let (_, report) = cluster.verdict(4, "incompatible", &[]);
    assert_eq!(row(&report, 1)["status"], "creation_time_mismatch");
}

#[tokio::test]
async fn a_state_that_names_another_second_puts_versions_below_the_limit_in_doubt() {
    let cluster = Cluster::with_two_versions().await;
    let record = cluster.record();
    cluster.node.recreate_key().await;
    cluster.node.rotate().await;
    cluster.node.configure_key(hiding()).await;
    let (text, report) = cluster.verdict(4, "incompatible", &[]);
    // An OpenBao that was taken back and rotated again would look the same.
    assert_eq!(row(&report, 1)["status"], "hidden");
    assert_eq!(row(&report, 2)["status"], "creation_time_mismatch");
    assert_eq!(report["etcd"]["lostObjects"], 1);
    assert_eq!(report["etcd"]["untestedObjects"], 2);
    assert_eq!(status(&report, "registry.state"), "fail");
    assert!(text.contains("version 2 was created at"), "{text}");
    // The record shows it as well as the state, where there is none.
    lose_state(&cluster.node);
    let record = ["--record", record.to_str().unwrap()];
    let (_, report) = cluster.verdict(4, "incompatible", &record);
    assert_eq!(row(&report, 1)["status"], "hidden");
    assert_eq!(status(&report, "record.drift"), "fail");
}

#[tokio::test]
async fn damage_under_another_name_is_a_warning_and_under_this_one_a_loss() {
    let mut cluster = Cluster::new().await;
    cluster.store("one").await;
    cluster.etcd.put("/registry/secrets/f/x", GARBAGE);
    let (text, report) = cluster.verdict(0, "compatible", &["--depth", "data"]);
    assert_eq!(status(&report, "etcd.objects"), "warn");
    assert!(
        text.contains(
            "damaged under other provider names, which does not concern this key: 1 value"
        ),
        "{text}"
    );
    assert_eq!(report["etcd"]["damagedValues"], 0);
    assert_eq!(report["etcd"]["damagedValuesOfOthers"], 1);
    let (_, report) = cluster.drill(0).await;
    assert_eq!(report["verdict"], "compatible");
    let (_, report) = cluster.report(&cluster.node, &["triage"], 0);
    assert_eq!(report["verdict"], "healthy");
    let stateless = cluster.node.peer(TIMING);
    let (text, report) = cluster.report(&stateless, &["recover-state"], 0);
    assert!(report["planHash"].is_string(), "{text}");

    fs::remove_file(cluster.snapshot()).unwrap();
    let own = [b"k8s:enc:kms:v2:kms-test:", &GARBAGE[24..]].concat();
    cluster.etcd.put("/registry/secrets/f/y", &own);
    let (text, report) = cluster.verdict(4, "incompatible", &["--depth", "data"]);
    assert!(
        text.contains("no key opens the damaged values of provider kms-test in etcd: 1 value;"),
        "{text}"
    );
    assert!(!text.contains("0 of 1 object"), "{text}");
    // The others may go into service, and no line denies it.
    assert!(text.contains("once the others are in service"), "{text}");
    assert!(
        !text.contains("do not put this pair into service"),
        "{text}"
    );
    assert_eq!(report["etcd"]["damagedValues"], 1);
}

#[tokio::test]
async fn objects_under_a_second_name_count_although_their_version_is_gone() {
    let mut cluster = Cluster::new().await;
    let events = Sealer {
        provider: "kms-test-events".to_owned(),
        ..cluster.sealer().await
    };
    for name in ["one", "two", "three"] {
        cluster.put(&events, name, name);
    }
    cluster.node.rotate().await;
    cluster.provider.encrypt_under(2).await;
    cluster.store("four").await;
    let record = cluster.record();
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!(
        record["etcdSnapshot"]["requiredVersions"],
        json!([{"transitVersion": 1, "objects": 3}, {"transitVersion": 2, "objects": 1}]),
        "{record:#}"
    );
    let (text, report) = cluster.verdict(0, "compatible", &["--depth", "data"]);
    assert!(text.contains("\n  kms-test-events  3\n"), "{text}");
    assert_eq!(row(&report, 1)["data"]["proven"], 3);

    let limits = KeyConfig {
        min_encryption_version: Some(2),
        ..hiding()
    };
    cluster.node.configure_key(limits).await;
    let mount = &cluster.node.tenant.transit_mount;
    let admin = shared_openbao().await.admin();
    admin.trim_key(mount, KEY, 2).await.unwrap();
    // Without a state nothing but the annotations name the version.
    lose_state(&cluster.node);
    let (_, report) = cluster.verdict(4, "incompatible", &[]);
    assert_eq!(row(&report, 1)["status"], "trimmed");
    assert_eq!(report["etcd"]["lostObjects"], 3);
}

#[tokio::test]
async fn a_version_that_this_node_has_removed_is_restored_first() {
    let cluster = Cluster::with_two_versions().await;
    let retire = ["retire-versions", "--before-version", "2"];
    let plan = [&retire[..], &["--output", "json"]].concat();
    let plan = cluster.node.run(&plan).json();
    let hash = plan["stateHash"].as_str().unwrap();
    let apply = [&retire[..], &["--apply", "--expected-state-hash", hash]].concat();
    cluster.provider.signal(Signal::TERM);
    wait_until(
        SOON,
        "a retirement once the provider has ended",
        async || cluster.node.run(&apply).code == Some(0),
    )
    .await;

    let (text, report) = cluster.verdict(4, "compatible-after", &["--depth", "data"]);
    assert!(text.contains("no object is lost"), "{text}");
    let remedy = &report["remedies"][0];
    assert_eq!(remedy["code"], "restore_versions");
    let command = remedy["command"].as_str().unwrap();
    assert!(text.contains(command), "{text}");
    assert!(command.ends_with(" --versions 1"), "{command}");
}

#[tokio::test]
async fn a_record_is_written_and_says_that_a_dek_of_its_snapshot_does_not_decrypt() {
    let mut cluster = Cluster::new().await;
    cluster.store("good").await;
    let mut exchanged = cluster.sealer().await;
    let path = format!("{}/encrypt/{KEY}", cluster.node.tenant.transit_mount);
    let body = json!({"plaintext": "c2VlZA=="});
    let admin = shared_openbao().await.admin();
    let answer: Value = admin.write(&path, &body).await.unwrap().json().unwrap();
    let unbound = answer["data"]["ciphertext"].as_str().unwrap();
    exchanged.encrypted_source = unbound.as_bytes().to_vec();
    cluster.put(&exchanged, "exchanged", "exchanged");

    let file = cluster.directory.path().join("record.json");
    let snapshot = cluster.snapshot();
    let done = cluster.node.run(&[
        "record-backup",
        "--out",
        file.to_str().unwrap(),
        "--etcd-snapshot",
        snapshot.to_str().unwrap(),
        "--etcd-prefix",
        "/elsewhere",
        "--output",
        "json",
    ]);
    assert_eq!(done.code, Some(4), "{}{}", done.out, done.err);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(report["verdict"], "recorded-incompatible");
    // An object counts below any prefix.
    let required = json!([{"transitVersion": 1, "objects": 2}]);
    assert_eq!(report["etcdSnapshot"]["requiredVersions"], required);
    assert!(file.exists());
}
