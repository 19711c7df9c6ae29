//! `extract`: single objects of a snapshot or a running etcd come back as manifests, and a refused
//! object leaves nothing behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openbao_lab::admin::transit::KeyConfig;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    memory::Held,
    openbao::shared_openbao,
    schema::assert_published,
    stored::{Sealer, SourceType},
    tenant::KEY,
    wait::wait_until,
};

use crate::{
    batcher::items_asked_for,
    corpus::sealer,
    node::{Finished, Node, TIMING},
    provider::Provider,
    secrets::{files_below, spellings},
};

/// In the data of every object.
const MARKER: &[u8] = b"MARKER-of-the-extraction-0123456789";

/// A node with Secrets of its provider in an etcd of its own.
struct Vault {
    node: Node,
    provider: Provider,
    etcd: Etcd,
    directory: TempDir,
}

impl Vault {
    async fn new() -> Self {
        let node = Node::new(TIMING).await;
        Self {
            provider: node.serve().await,
            node,
            etcd: Etcd::start().await,
            directory: TempDir::new().unwrap(),
        }
    }

    async fn sealer(&self) -> Sealer {
        sealer(&self.node, &self.provider, SourceType::HkdfSeed).await
    }

    fn put(&self, sealer: &Sealer, name: &str) {
        let key = key(name);
        self.etcd
            .put(&key, &sealer.value(&key, &secret(name, MARKER)));
    }

    fn snapshot(&self) -> PathBuf {
        let file = self.directory.path().join("etcd.db");
        if !file.exists() {
            self.etcd.save_snapshot(&file);
        }
        file
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("recovered")
    }

    /// `extract` with the snapshot; its temporary files are in the directory.
    fn extract(&self, options: &[&str]) -> Finished {
        let snapshot = self.snapshot();
        let of = ["extract", "--etcd-snapshot", snapshot.to_str().unwrap()];
        let mut command = self.node.program(&[&of[..], options].concat());
        command.env("TMPDIR", self.directory.path());
        let done: Finished = command.output().unwrap().into();
        self.assert_no_plaintext_but_in_the_target(&[&done.out, &done.err]);
        done
    }

    /// The same into the target directory.
    fn extract_to_target(&self, options: &[&str]) -> Finished {
        let target = self.target();
        let into = ["--output-dir", target.to_str().unwrap()];
        self.extract(&[&into[..], options].concat())
    }

    /// The sweep: nothing that was said, and no file but those of the operator, has plaintext.
    fn assert_no_plaintext_but_in_the_target(&self, said: &[&str]) {
        let mut texts: Vec<String> = said.iter().map(|&text| text.to_owned()).collect();
        files_below(&self.node.state_dir(), &mut texts);
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path == self.target() {
                continue;
            }
            if path.is_dir() {
                files_below(&path, &mut texts);
            } else {
                texts.push(String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
            }
        }
        for spelling in spellings(MARKER) {
            let found = texts.iter().find(|text| text.contains(&spelling));
            assert_eq!(found, None, "plaintext is outside the output directory");
        }
    }

    /// Runs the printed command of the program.
    fn follow(&self, told: &Finished) -> Finished {
        let mut lines = told.out.lines();
        let printed = lines.find(|line| line.trim().starts_with("bao-kms-provider "));
        let words = shlex::split(printed.unwrap().trim()).unwrap();
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        self.node.run_printed(&words)
    }

    /// A refusal by name and cause, without a file.
    fn assert_refused(&self, options: &[&str], name: &str, cause: &str) -> Value {
        let all = [options, &["--output", "json"]].concat();
        let done = self.extract_to_target(&all);
        assert_eq!(done.code, Some(4), "{}{}", done.out, done.err);
        let report: Value = serde_json::from_str(&done.out).unwrap();
        assert_published(&report);
        assert_eq!(report["verdict"], "refused", "{report:#}");
        assert_eq!(report["cause"], cause, "{report:#}");
        let refused = report["refused"].as_array().unwrap();
        let found = refused.iter().find(|row| row["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{report:#}"));
        assert_eq!(found["cause"], cause);
        assert!(!self.target().exists());
        report
    }
}

fn key(name: &str) -> String {
    format!("/registry/secrets/shop/{name}")
}

/// A field with bytes, text or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    // A varint of three bytes for every length.
    let groups = [length & 127 | 128, length >> 7 & 127 | 128, length >> 14];
    let mut bytes = vec![number << 3 | 2];
    bytes.extend(groups.map(|group| u8::try_from(group).unwrap()));
    [&bytes, content].concat()
}

/// A Secret as kube-apiserver stores it.
fn secret(name: &str, data: &[u8]) -> Vec<u8> {
    let kind = [field(1, b"v1"), field(2, b"Secret")].concat();
    let created = [&[1 << 3][..], &[0x80, 0xe2, 0xcf, 0xaa, 0x06]].concat();
    let owner = [
        field(1, b"Shop"),
        field(3, b"owner-of-it"),
        field(4, b"owner-uid"),
        field(5, b"example.org/v1"),
    ]
    .concat();
    let metadata = [
        field(1, name.as_bytes()),
        field(3, b"shop"),
        field(5, b"some-uid"),
        field(8, &created),
        field(11, &[field(1, b"app"), field(2, b"yes")].concat()),
        field(13, &owner),
    ]
    .concat();
    let object = [
        field(1, &metadata),
        field(2, &[field(1, b"password"), field(2, data)].concat()),
        field(2, &[field(1, b"empty"), field(2, b"")].concat()),
        field(3, b"Opaque"),
    ]
    .concat();
    let envelope = [
        field(1, &kind),
        field(2, &object),
        field(3, b""),
        field(4, b""),
    ];
    [b"k8s\0", &envelope.concat()[..]].concat()
}

fn manifest(path: &Path) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn objects_of_a_snapshot_come_back_as_manifests() {
    let vault = Vault::new().await;
    let first = vault.sealer().await;
    vault.put(&first, "db-1");
    vault.put(&first, "other");
    vault.node.rotate().await;
    vault.provider.encrypt_under(2).await;
    let second = vault.sealer().await;
    vault.put(&second, "db-2");
    let widget = "/registry/example.org/widgets/shop/one";
    let content = json!({
        "apiVersion": "example.org/v1",
        "kind": "Widget",
        "metadata": {"name": "one", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {"number": 1.5, "text": "a\n\"b\"\u{1}", "none": null, "on": [true, {}, []]},
        "status": {"ready": true},
    });
    let stored = first.value(widget, content.to_string().as_bytes());
    vault.etcd.put(widget, &stored);
    let unknown = "/registry/example.org/odd/shop/one";
    let kind = [field(1, b"example.org/v1"), field(2, b"Odd")].concat();
    let odd = [b"k8s\0", &field(1, &kind)[..]].concat();
    vault.etcd.put(unknown, &first.value(unknown, &odd));
    vault.etcd.put(&key("plain"), &secret("plain", b"plain"));
    vault.etcd.put("/registry/masterleases/192.0.2.1", b"lease");
    vault.snapshot();
    let _answer = vault.etcd.ctl(&["del", &key("db-1")]);

    let selected = [
        "--resource",
        "secrets",
        "--resource",
        "widgets",
        "--resource",
        "odd.example.org",
        "--namespace",
        "sh?p",
        "--name",
        "db-*",
        "--name",
        "one",
        "--name",
        "plain",
    ];
    let report = vault
        .extract_to_target(&[&selected[..], &["--output", "json"]].concat())
        .json();
    assert_eq!(report["verdict"], "extracted", "{report:#}");
    assert_eq!(report["objects"].as_array().unwrap().len(), 5);
    let target = vault.target();
    assert_eq!(mode(&target), 0o700);
    for row in report["objects"].as_array().unwrap() {
        let file = target.join(row["file"].as_str().unwrap());
        assert_eq!(mode(&file), 0o600);
        let hash = Sha256::digest(fs::read(&file).unwrap());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(row["sha256"], hash.as_str());
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 5);

    for name in ["db-1", "db-2"] {
        let file = target.join(format!("secrets_shop_{name}.yaml"));
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": "yes"}},
            "data": {"password": STANDARD.encode(MARKER), "empty": ""},
            "type": "Opaque",
        });
        assert_eq!(manifest(&file), expected);
        let text = fs::read_to_string(&file).unwrap();
        let owner = "\n# removed owner: Shop owner-of-it of example.org/v1\n";
        assert!(text.contains(owner), "{text}");
    }
    let mut expected = content;
    expected["metadata"] = json!({"name": "one", "namespace": "shop"});
    expected.as_object_mut().unwrap().remove("status");
    assert_eq!(
        manifest(&target.join("widgets.example.org_shop_one.yaml")),
        expected
    );
    let kept = fs::read(target.join("odd.example.org_shop_one.stored")).unwrap();
    assert_eq!(kept, odd);
    let row = report["objects"].as_array().unwrap();
    let row = row.iter().find(|row| row["resource"] == "odd.example.org");
    let reason = row.unwrap()["undecoded"].as_str().unwrap();
    assert!(
        reason.contains("\"Odd\" of \"example.org/v1\" is unknown"),
        "{reason}"
    );

    // A directory with files is refused before OpenBao decrypts anything.
    let again = vault.extract_to_target(&["--resource", "secrets"]);
    again.assert_told(1, &["output_directory_unusable", "is not empty"]);

    // The running etcd has one of them less; the manifests go to a stream only with consent.
    let options: Vec<String> = vault.etcd.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let live = [
        &["extract", "--resource", "secrets", "--name", "db-*"],
        &options[..],
    ]
    .concat();
    let refused = vault.node.run(&live);
    assert_eq!(refused.code, Some(2), "{}", refused.out);
    let streamed = vault
        .node
        .run(&[&live[..], &["--to-stdout-i-accept"]].concat());
    assert_eq!(streamed.code, Some(0), "{}", streamed.err);
    assert_eq!(
        streamed.out.matches("\n---\n").count(),
        0,
        "{}",
        streamed.out
    );
    assert!(
        streamed
            .out
            .starts_with("---\n# secrets shop/db-2 at etcd revision ")
    );
    assert!(streamed.out.contains(&STANDARD.encode(MARKER)));
}

#[tokio::test]
async fn an_earlier_revision_has_objects_that_the_snapshot_has_no_more() {
    let vault = Vault::new().await;
    let sealer = vault.sealer().await;
    vault.put(&sealer, "deleted");
    vault.put(&sealer, "changed");
    let listed = |options: &[&str]| {
        let all = ["--all-in-namespace", "shop", "--list", "-o", "json"];
        let report = vault.extract(&[&all[..], options].concat()).json();
        assert_eq!(report["verdict"], "listed");
        report["objects"].as_array().unwrap().clone()
    };
    let first = vault
        .etcd
        .ctl(&["get", "--write-out=json", &key("changed")]);
    let first: Value = serde_json::from_slice(&first).unwrap();
    let first = first["header"]["revision"].to_string();
    let changed = secret("changed", b"later");
    let later = sealer.value(&key("changed"), &changed);
    vault.etcd.put(&key("changed"), &later);
    let _answer = vault.etcd.ctl(&["del", &key("deleted")]);

    let names = |rows: Vec<Value>| -> Vec<String> {
        let names = rows
            .iter()
            .map(|row| row["name"].as_str().unwrap().to_owned());
        names.collect()
    };
    let rows = listed(&[]);
    assert_eq!(rows[0]["storedBytes"], later.len());
    assert_eq!(rows[0]["protection"], "kms-v2");
    assert_eq!(names(rows), ["changed"]);
    assert_eq!(
        names(listed(&["--revision", &first])),
        ["changed", "deleted"]
    );

    let of_revision = ["--resource", "secrets", "--revision", &first];
    let done = vault.extract_to_target(&of_revision);
    done.assert_told(0, &["extract: extracted\n", "2 objects written to "]);
    let text = fs::read_to_string(vault.target().join("secrets_shop_changed.yaml")).unwrap();
    assert!(
        spellings(MARKER).iter().any(|it| text.contains(it)),
        "{text}"
    );

    let options = vault.etcd.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let live = [
        &["extract", "--all-in-namespace", "shop", "--list"],
        &options[..],
    ]
    .concat();
    let live = |more: &[&str]| vault.node.run(&[&live[..], more].concat());
    live(&[]).assert_told(0, &["1 object\n"]);
    live(&["--revision", &first]).assert_told(0, &["2 objects\n", "deleted"]);
    live(&["--revision", "1000000"]).assert_told(4, &["revision_missing", "of the future"]);
    let _answer = vault.etcd.ctl(&[
        "compaction",
        &(first.parse::<u64>().unwrap() + 1).to_string(),
    ]);
    live(&["--revision", &first]).assert_told(4, &["revision_missing", "compacted"]);

    let missing = vault.extract(&["--resource", "secrets", "--list", "--revision", "1000000"]);
    missing.assert_told(4, &["revision_missing", "not revision 1000000"]);
    let nothing = vault.extract(&["--resource", "secrets", "--name", "no", "--list"]);
    nothing.assert_told(4, &["no_object_selected"]);
    vault
        .follow(&nothing)
        .assert_told(0, &["extract: listed\n", "changed"]);
}

#[tokio::test]
async fn the_audit_log_of_openbao_has_each_decrypted_dek() {
    let vault = Vault::new().await;
    for names in [&["one", "two"][..], &["three"], &["four"]] {
        let sealer = vault.sealer().await;
        for name in names {
            vault.put(&sealer, name);
        }
    }
    // The probes of the provider are single decrypts.
    let batches = async || {
        let mut items = items_asked_for(&vault.node).await;
        items.retain(|items| *items > 1);
        items
    };
    let secrets = ["--resource", "secrets"];
    let listed = vault.extract(&[&secrets[..], &["--list"]].concat());
    listed.assert_told(0, &["4 objects\n"]);
    assert_eq!(batches().await, [0; 0], "names need no decryption");
    let done = vault.extract_to_target(&secrets);
    done.assert_told(0, &["4 objects written to "]);
    assert_eq!(batches().await, [3]);
}

/// A single object that does not decrypt proves nothing about the key.
#[tokio::test]
async fn an_object_with_a_changed_dek_is_not_taken_for_a_lost_key() {
    let vault = Vault::new().await;
    let sealer = vault.sealer().await;
    vault.put(&sealer, "sound");
    let mut changed = vault.sealer().await;
    let middle = changed.encrypted_source.len() / 2;
    let letter = &mut changed.encrypted_source[middle];
    *letter = if *letter == b'A' { b'B' } else { b'A' };
    vault.put(&changed, "changed");

    let alone = ["--resource", "secrets", "--name", "changed"];
    vault.assert_refused(&alone, "changed", "dek_not_decrypted");
    let told = vault.extract_to_target(&alone);
    told.assert_told(
        4,
        &["dek_not_decrypted", "or the version is of another key"],
    );
    vault
        .follow(&told)
        .assert_told(4, &["verify-backup: incompatible\n"]);
    let both = [&alone[..], &["--name", "sound"]].concat();
    vault.assert_refused(&both, "changed", "objects_damaged");
}

#[tokio::test]
async fn a_refused_object_is_named_and_nothing_is_written() {
    let vault = Vault::new().await;
    let sealer = vault.sealer().await;
    for name in ["sound", "moved", "tampered"] {
        vault.put(&sealer, name);
    }
    let elsewhere = sealer.value(&key("moved"), &secret("moved", MARKER));
    vault.etcd.put(&key("copy"), &elsewhere);
    let mut tampered = sealer.clone();
    let version = tampered.annotations.iter_mut();
    let mut version = version.filter(|(name, _)| name.starts_with("transit-key-version."));
    version.next().unwrap().1 = b"7".to_vec();
    vault.put(&tampered, "tampered");
    let local = key("local");
    vault.etcd.put(&local, b"k8s:enc:aescbc:v1:key1:xxxx");

    let named = |name: &'static str| ["--resource", "secrets", "--name", "sound", "--name", name];
    vault.assert_refused(&named("copy"), "copy", "object_not_authentic");
    vault.assert_refused(&named("tampered"), "tampered", "objects_damaged");
    vault.assert_refused(&named("local"), "local", "other_encryption");
    let all = vault.assert_refused(
        &["--all-in-namespace", "shop"],
        "tampered",
        "objects_damaged",
    );
    assert_eq!(all["refused"].as_array().unwrap().len(), 3, "{all:#}");
    let text = vault.extract_to_target(&["--all-in-namespace", "shop"]);
    text.assert_told(
        4,
        &["extract: refused\n", "3 of 5 objects refused", "tampered"],
    );

    // A version that the key hides, and then lacks.
    vault.node.rotate().await;
    let limits = KeyConfig {
        min_decryption_version: Some(2),
        min_encryption_version: Some(2),
        ..KeyConfig::default()
    };
    vault.node.configure_key(limits).await;
    vault.assert_refused(&named("sound"), "sound", "versions_below_minimum");
    let mount = &vault.node.tenant.transit_mount;
    let admin = shared_openbao().await.admin();
    admin.trim_key(mount, KEY, 2).await.unwrap();
    vault.assert_refused(&named("sound"), "sound", "versions_lost");
}

#[tokio::test]
async fn an_object_of_a_key_made_anew_is_refused() {
    let vault = Vault::new().await;
    let sealer = vault.sealer().await;
    vault.put(&sealer, "sound");
    vault.snapshot();
    vault.node.recreate_key().await;
    let report = vault.assert_refused(&["--resource", "secrets"], "sound", "key_recreated");
    assert!(!report["nextSteps"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn no_plaintext_stays_in_memory_after_the_files_are_written() {
    let vault = Vault::new().await;
    let sealer = vault.sealer().await;
    for number in 0..40 {
        let name = format!("large-{number}");
        let data = MARKER.repeat(1 + number * 20);
        let value = sealer.value(&key(&name), &secret(&name, &data));
        vault.etcd.put(&key(&name), &value);
    }
    let (snapshot, target) = (vault.snapshot(), vault.target());
    let arguments = [
        "extract",
        "--etcd-snapshot",
        snapshot.to_str().unwrap(),
        "--resource",
        "secrets",
        "--output-dir",
        target.to_str().unwrap(),
    ];
    let Some(held) = Held::start(&mut vault.node.program(&arguments)).await else {
        return;
    };
    let found = held.found(&spellings(MARKER));
    let out = held.finish();
    assert!(out.starts_with("extract: extracted\n"), "{out}");
    assert_eq!(found, [""; 0]);
}

#[tokio::test]
async fn a_killed_extraction_leaves_plaintext_in_its_directory_alone() {
    let vault = Vault::new().await;
    let sealer = vault.sealer().await;
    let large = MARKER.repeat(400);
    for number in 0..300 {
        let name = format!("large-{number}");
        let value = sealer.value(&key(&name), &secret(&name, &large));
        vault.etcd.put(&key(&name), &value);
    }
    let snapshot = vault.snapshot();
    let target = vault.target();
    let arguments = [
        "extract",
        "--etcd-snapshot",
        snapshot.to_str().unwrap(),
        "--resource",
        "secrets",
        "--output-dir",
        target.to_str().unwrap(),
    ];
    let mut command = vault.node.program(&arguments);
    command.env("TMPDIR", vault.directory.path());
    let mut running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let staged = target.join(".incomplete");
    wait_until(Duration::from_secs(60), "a staged file", async || {
        let files = fs::read_dir(&staged).map(Iterator::count);
        files.is_ok_and(|files| files > 1) || running.try_wait().unwrap().is_some()
    })
    .await;
    running.kill().unwrap();
    let done: Finished = running.wait_with_output().unwrap().into();
    vault.assert_no_plaintext_but_in_the_target(&[&done.out, &done.err]);
    if done.code.is_none() {
        assert_eq!(mode(&target), 0o700);
        assert!(staged.exists(), "complete files are moved at the end alone");
    }
}
