//! `--attest` and `verify-attestation`: signed statements on real results, and all that must be refused.

mod commands;
#[cfg(feature = "issuer-tests")]
mod long;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::{
    files,
    openbao::shared_openbao,
    schema::{assert_fits, assert_published},
};

use crate::{
    corpus::Corpus,
    drill::{Backups, SET},
    node::{Finished, Node, TIMING, program},
};

/// A pair of keys of `openssl`, and a place for statements.
pub(crate) struct Signing {
    directory: TempDir,
}

impl Signing {
    /// `algorithm` as `openssl genpkey` takes it.
    pub(crate) fn new(algorithm: &[&str]) -> Self {
        let signing = Self {
            directory: TempDir::new().unwrap(),
        };
        let (key, public) = (signing.path("key.pem"), signing.path("key.pub"));
        openssl(&[&["genpkey", "-out", &key, "-algorithm"], algorithm].concat());
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]);
        signing
    }

    pub(crate) fn p256() -> Self {
        Self::new(&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// The options that write the statement `name`.
    pub(crate) fn options(&self, name: &str) -> [String; 4] {
        let (attest, key) = (self.path(name), self.path("key.pem"));
        ["--attest".into(), attest, "--sign-key".into(), key]
    }

    /// `verify-attestation` of the statement `name`, without a configuration.
    pub(crate) fn verify(&self, name: &str, more: &[&str]) -> Finished {
        let mut command = program();
        command
            .args(["verify-attestation", &self.path(name), "--output", "json"])
            .args(["--key", &self.path("key.pub")])
            .args(more);
        command.output().unwrap().into()
    }

    /// The same, refused with this cause.
    #[track_caller]
    pub(crate) fn assert_refused(&self, name: &str, more: &[&str], code: i32, cause: &str) {
        let refused = self.verify(name, more);
        assert_eq!(refused.code, Some(code), "{refused:?}");
        let report: Value = serde_json::from_str(&refused.out).unwrap();
        assert_published(&report);
        assert_eq!(report["cause"], cause, "{report:#}");
    }

    /// The signed content of the statement `name`, which must be verified and have the published form.
    #[track_caller]
    pub(crate) fn statement(&self, name: &str) -> Value {
        let verified = self.verify(name, &[]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        let statement = payload(&envelope(Path::new(&self.path(name))));
        assert_fits("attestation", &statement);
        statement
    }
}

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

pub(crate) fn envelope(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub(crate) fn payload(envelope: &Value) -> Value {
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap());
    serde_json::from_slice(&payload.unwrap()).unwrap()
}

pub(crate) fn sha256(path: impl AsRef<Path>) -> String {
    let hash = Sha256::digest(fs::read(path).unwrap());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// A snapshot of a corpus, and `verify-backup` on it.
struct Verified {
    node: Node,
    #[expect(dead_code, reason = "its etcd and files")]
    corpus: Corpus,
    snapshot: PathBuf,
}

impl Verified {
    async fn new() -> Self {
        let node = Node::new(TIMING).await;
        let provider = node.serve().await;
        let corpus = Corpus::of(&node, &provider).await;
        let snapshot = corpus.snapshot("etcd.db");
        Self {
            node,
            corpus,
            snapshot,
        }
    }

    fn run(&self, more: &[&str]) -> Finished {
        let snapshot = self.snapshot.to_str().unwrap();
        let command = ["verify-backup", "--etcd-snapshot", snapshot];
        self.node.run(&[&command[..], more].concat())
    }
}

#[tokio::test]
async fn a_statement_of_both_kinds_of_keys_is_verified_and_says_what_the_result_said() {
    let verified = Verified::new().await;
    for signing in [Signing::p256(), Signing::new(&["ED25519"])] {
        let options = signing.options("statement");
        let report = verified
            .run(&[&words(&options)[..], &["--output", "json"]].concat())
            .json();
        let statement = signing.statement("statement");
        let mode = fs::metadata(signing.path("statement")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o7777, 0o640);

        assert_eq!(
            statement["subject"],
            json!([{"name": "etcd-snapshot", "digest": {"sha256": sha256(&verified.snapshot)}}])
        );
        let predicate = &statement["predicate"];
        for member in ["command", "verdict", "exitCode", "time", "cause"] {
            assert_eq!(predicate[member], report[member], "{member}");
        }
        assert_eq!(
            predicate["identityFingerprint"],
            report["identityFingerprint"]
        );
        assert_eq!(predicate["tool"]["version"], report["version"]);
        let rows = predicate["versions"].as_array().unwrap();
        let reported = report["keyIds"].as_array().unwrap();
        assert_eq!(rows.len(), reported.len());
        for (row, reported) in rows.iter().zip(reported) {
            for member in ["transitVersion", "keyIdHash", "objects"] {
                assert_eq!(row[member], reported[member], "{statement:#}");
            }
        }
        let text = statement.to_string();
        for name in [
            "default",
            "kube-system",
            "cluster-test",
            "bao-test",
            "etcd.db",
        ] {
            assert!(!text.contains(name), "{name} in {text}");
        }

        let etcd = verified.snapshot.to_str().unwrap();
        let with_file = signing.verify("statement", &["--etcd-snapshot", etcd]);
        let shown: Value = serde_json::from_str(&with_file.out).unwrap();
        assert_published(&shown);
        assert_eq!(shown["verdict"], "verified");
        assert_eq!(shown["statement"], *predicate);
    }
}

#[tokio::test]
async fn a_changed_or_foreign_statement_is_refused() {
    let verified = Verified::new().await;
    let signing = Signing::p256();
    let attested = verified.run(&words(&signing.options("good")));
    assert_eq!(attested.code, Some(0), "{attested:?}");
    let good = envelope(Path::new(&signing.path("good")));
    let put = |name: &str, envelope: &Value| {
        let text = envelope.to_string();
        files::replace(Path::new(&signing.path(name)), text.as_bytes(), 0o640);
    };
    let changed = |from: &str, to: &str| {
        let text = payload(&good).to_string();
        assert!(text.contains(from), "{text}");
        let mut envelope = good.clone();
        envelope["payload"] = json!(STANDARD.encode(text.replace(from, to)));
        envelope
    };
    let invalid = "attestation_signature_invalid";

    put("verdict", &changed("\"compatible\"", "\"incompatible\""));
    signing.assert_refused("verdict", &[], 4, invalid);
    put(
        "digest",
        &changed(&sha256(&verified.snapshot), &"0".repeat(64)),
    );
    signing.assert_refused("digest", &[], 4, invalid);
    let mut none = good.clone();
    none["signatures"] = json!([]);
    put("none", &none);
    signing.assert_refused("none", &[], 4, invalid);
    let mut type_changed = good.clone();
    type_changed["payloadType"] = json!("application/json");
    put("type", &type_changed);
    signing.assert_refused("type", &[], 4, "attestation_malformed");
    put("text", &json!("no envelope"));
    signing.assert_refused("text", &[], 4, "attestation_malformed");

    // Signed again by another key, under the ID of the right one.
    let other = Signing::p256();
    assert_eq!(verified.run(&words(&other.options("good"))).code, Some(0));
    let mut resigned = envelope(Path::new(&other.path("good")));
    put("resigned", &resigned);
    signing.assert_refused("resigned", &[], 4, invalid);
    resigned["signatures"][0]["keyid"] = good["signatures"][0]["keyid"].clone();
    put("renamed", &resigned);
    signing.assert_refused("renamed", &[], 4, invalid);
    // A second, foreign signature changes nothing about the first.
    let mut both = good.clone();
    let foreign = changed("\"compatible\"", "\"x\"")["signatures"][0].clone();
    both["signatures"] = json!([{"sig": "AA=="}, foreign]);
    put("both", &both);
    assert_eq!(signing.verify("both", &[]).code, Some(0));
    let second_key = signing.verify("resigned", &["--key", &other.path("key.pub")]);
    assert_eq!(second_key.code, Some(0), "{second_key:?}");

    let other_file = signing.path("other.db");
    files::replace(Path::new(&other_file), b"another snapshot", 0o600);
    let of_others = "attestation_of_other_files";
    signing.assert_refused("good", &["--etcd-snapshot", &other_file], 4, of_others);
    let etcd = verified.snapshot.to_str().unwrap();
    signing.assert_refused("good", &["--openbao-snapshot", etcd], 4, of_others);
    let missing = signing.path("missing");
    let unreadable = "attestation_unreadable";
    signing.assert_refused("good", &["--etcd-snapshot", &missing], 5, unreadable);
    signing.assert_refused("missing", &[], 5, unreadable);
    fs::copy(signing.path("key.pem"), signing.path("key.pub")).unwrap();
    signing.assert_refused("good", &[], 5, "public_key_unusable");
}

#[tokio::test]
async fn an_unusable_key_ends_the_command_before_its_work_and_no_file_is_overwritten() {
    let verified = Verified::new().await;
    let signing = Signing::p256();
    let refused = |options: &[String], parts: &[&str]| {
        let finished = verified.run(&words(options));
        finished.assert_refused(1, parts);
        assert_eq!(finished.out, "", "no work was done");
    };

    let options = signing.options("statement");
    let key = signing.path("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&options, &["mode 0644", "--sign-key"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    for (algorithm, part) in [
        (&["RSA"][..], "neither of EC P-256 nor of Ed25519"),
        (
            &[
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-pkeyopt",
                "ec_param_enc:explicit",
            ],
            "must name its curve (P-256) and hold an uncompressed point",
        ),
        (
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            "neither of EC P-256",
        ),
        (
            &["ED25519", "-aes256", "-pass", "pass:secret"],
            "encrypted with a passphrase",
        ),
    ] {
        let other = TempDir::new().unwrap();
        let other = other.path().join("key.pem");
        let arguments = ["genpkey", "-out", other.to_str().unwrap(), "-algorithm"];
        openssl(&[&arguments[..], algorithm].concat());
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        let mut options = options.clone();
        options[3] = other.display().to_string();
        refused(&options, &["cannot use the signing key", part]);
    }
    let (sec1, compressed) = (signing.path("sec1.pem"), signing.path("compressed.pem"));
    let form = ["-conv_form", "compressed", "-out", &sec1];
    openssl(&[&["ec", "-in", &key], &form[..]].concat());
    let form = ["-topk8", "-nocrypt", "-out", &compressed];
    openssl(&[&["pkcs8", "-in", &sec1], &form[..]].concat());
    fs::set_permissions(&compressed, fs::Permissions::from_mode(0o600)).unwrap();
    let mut of_compressed = options.clone();
    of_compressed[3] = compressed;
    refused(&of_compressed, &["hold an uncompressed point"]);
    for directory in ["missing/statement", "missing/"] {
        refused(
            &signing.options(directory),
            &["was not written", "No such file"],
        );
    }
    assert!(!Path::new(&signing.path("missing")).exists());
    assert!(!Path::new(&signing.path("statement")).exists());

    // A running etcd has no digest.
    let live = ["verify-backup", "--endpoints", "https://127.0.0.1:1"];
    let live = [&live[..], &["--cacert", "/none"], &words(&options)].concat();
    let live = verified.node.run(&live);
    live.assert_refused(1, &["no file was read that the statement could be about"]);
    assert_eq!(live.out, "", "no work was done");
    // A failed check on nothing cannot be stated, and stays what it is.
    let missing = ["verify-backup", "--etcd-snapshot", "/none/etcd.db"];
    let missing = verified
        .node
        .run(&[&missing[..], &words(&options)].concat());
    missing.assert_refused(5, &["no file was read"]);
    assert!(missing.out.contains("directory is missing"), "{missing:?}");

    files::replace(Path::new(&signing.path("statement")), b"kept", 0o600);
    refused(&options, &["was not written", "exists already"]);
    assert_eq!(fs::read(signing.path("statement")).unwrap(), b"kept");

    // The result is stated although its page cannot be written.
    let page = signing.options("with-page");
    let page = verified.run(&[&words(&page)[..], &["--html", "/none/page.html"]].concat());
    page.assert_refused(1, &["HTML page was not written", "/none"]);
    assert_eq!(
        signing.statement("with-page")["predicate"]["verdict"],
        "compatible"
    );

    let alone = verified.run(&["--attest", &signing.path("new")]);
    assert_eq!(alone.code, Some(2), "{alone:?}");
    let both = [&words(&options)[..], &["--sign-transit", "a/b"]].concat();
    assert_eq!(verified.run(&both).code, Some(2));
}

#[tokio::test]
async fn drills_leave_a_chain_of_statements_also_of_failures() {
    let server = shared_openbao().await;
    let backups = Backups::of(server).await;
    let signing = Signing::p256();
    let chain = signing.path("chain");
    files::directory(Path::new(&chain), 0o755);
    let more = ["--attest", &chain, "--sign-key", &signing.path("key.pem")];
    let names = || {
        let entries = fs::read_dir(&chain).unwrap();
        let mut names: Vec<_> = entries
            .map(|it| format!("chain/{}", it.unwrap().file_name().display()))
            .collect();
        names.sort();
        names
    };
    let report = backups.drill(SET, &more, 0, "compatible").await;
    let before = ["etcd.db", "older.snap", "share"];
    backups.drill(before, &more, 4, "incompatible").await;
    let unreadable = ["etcd.db", "openbao.snap", "none"];
    backups.drill(unreadable, &more, 5, "inconclusive").await;

    let names = names();
    assert_eq!(names.len(), 3, "{names:?}");
    let statements: Vec<_> = names.iter().map(|name| signing.statement(name)).collect();
    let first = &statements[0];
    assert_eq!(
        first["subject"],
        json!([
            {"name": "etcd-snapshot", "digest": {"sha256": sha256(backups.path("etcd.db"))}},
            {"name": "openbao-snapshot", "digest": {"sha256": sha256(backups.path("openbao.snap"))}},
        ])
    );
    assert_eq!(first["predicate"]["time"], report["time"]);
    let rows = first["predicate"]["versions"].as_array().unwrap();
    let opened: Vec<_> = rows.iter().map(|row| &row["openedObjects"]).collect();
    assert_eq!(opened, [&json!(2), &json!(1)]);
    assert_eq!(first["predicate"]["previous"], Value::Null);
    for (pair, name) in statements.windows(2).zip(&names) {
        let previous = &pair[1]["predicate"]["previous"]["sha256"];
        assert_eq!(*previous, sha256(signing.path(name)));
    }
    let verdicts: Vec<_> = statements
        .iter()
        .map(|it| it["predicate"]["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["compatible", "incompatible", "inconclusive"]);
    assert_eq!(statements[1]["predicate"]["cause"], "openbao_rolled_back");
    assert_eq!(statements[2]["subject"], first["subject"]);

    let read = |key: &Signing, more: &[&str]| {
        let mut command = program();
        command
            .args(["drill", "history", &chain, "--output", "json"])
            .args(["--key", &key.path("key.pub")])
            .args(more);
        let finished: Finished = command.output().unwrap().into();
        let report: Value = serde_json::from_str(&finished.out).unwrap();
        assert_published(&report);
        (finished.code, report)
    };
    let links = |report: &Value| {
        let rows = report["statements"].as_array().unwrap();
        let links = rows.iter().map(|row| row["chain"].as_str().unwrap());
        links.collect::<Vec<_>>().join(" ")
    };
    let page = signing.path("history.html");
    let (code, history) = read(&signing, &["--html", &page, "--max-age", "1h"]);
    assert_eq!(code, Some(0), "{history:#}");
    assert_eq!(history["verdict"], "verified");
    assert_eq!(links(&history), "first linked linked");
    assert_eq!(history["lastSuccess"], report["time"]);
    let age = report["openbaoSnapshot"]["ageSeconds"].as_u64().unwrap();
    assert_eq!(history["statements"][0]["openbaoAgeSeconds"], age);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("drill: compatible"), "{page}");
    assert!(page.contains("1 failed"), "{page}");

    // The backups were older than a second.
    let (code, history) = read(&signing, &["--max-age", "1s"]);
    assert_eq!(
        (code, &history["cause"]),
        (Some(4), &json!("history_empty"))
    );
    let proofs = history["statements"].as_array().unwrap().iter();
    let proofs: Vec<_> = proofs.map(|it| it["proof"].as_str().unwrap()).collect();
    assert_eq!(proofs, ["outdated", "failed", "failed"]);
    let mut text = program();
    text.args(["drill", "history", &chain, "--max-age", "1s"])
        .args(["--key", &signing.path("key.pub")]);
    let text: Finished = text.output().unwrap().into();
    let time = report["time"].as_str().unwrap();
    let told = [
        "drill history: ",
        "history_empty",
        "\nstatements\n",
        "\nnot counted\n",
        "incompatible",
        time,
    ];
    text.assert_told(4, &told);
    let (code, history) = read(&Signing::p256(), &[]);
    assert_eq!(code, Some(4));
    assert_eq!(history["cause"], "history_unverified");
    assert_eq!(links(&history), "unknown unknown unknown");

    let middle = signing.path(&names[1]);
    let kept = fs::read(&middle).unwrap();
    fs::remove_file(&middle).unwrap();
    let (code, history) = read(&signing, &[]);
    assert_eq!(code, Some(4));
    assert_eq!(history["cause"], "history_chain_broken");
    assert_eq!(links(&history), "first broken");
    // The same content in another form: the signature holds, the chain does not.
    let spaced = String::from_utf8(kept).unwrap().replace(",", ", ");
    files::replace(Path::new(&middle), spaced.as_bytes(), 0o640);
    let (_, history) = read(&signing, &[]);
    assert_eq!(links(&history), "first linked broken");
    fs::remove_file(signing.path(&names[0])).unwrap();
    fs::remove_file(signing.path(&names[2])).unwrap();
    let (code, history) = read(&signing, &[]);
    assert_eq!(
        (code, &history["cause"]),
        (Some(4), &json!("history_empty"))
    );
    assert_eq!(links(&history), "continued");
}
