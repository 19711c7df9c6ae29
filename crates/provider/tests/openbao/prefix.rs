//! Two API servers in one etcd, each with a prefix of its own, and one key for both: no command takes
//! what is below one prefix for the whole.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    schema::assert_published,
    stored::{Sealer, SourceType},
};

use crate::{
    corpus::{Corpus, OBJECT, sealer},
    node::{Finished, Node, TIMING},
    provider::Provider,
};

const OTHER: &str = "/openshift.io/secrets/default/theirs";

/// `/registry` holds an object under version 2, `/openshift.io` one under version 1, and version 2 is
/// active.
struct Shared {
    node: Node,
    provider: Option<Provider>,
    corpus: Corpus,
    first: Sealer,
}

impl Shared {
    async fn new() -> Self {
        let node = Node::new(TIMING).await;
        let provider = node.serve().await;
        let corpus = Corpus {
            etcd: Etcd::start().await,
            directory: TempDir::new().unwrap(),
        };
        let first = sealer(&node, &provider, SourceType::HkdfSeed).await;
        corpus.etcd.put(OTHER, &first.value(OTHER, OBJECT));
        node.rotate().await;
        provider.encrypt_under(2).await;
        let second = sealer(&node, &provider, SourceType::HkdfSeed).await;
        corpus.put(&second, "secrets/default/ours");
        Self {
            node,
            provider: Some(provider),
            corpus,
            first,
        }
    }

    async fn stop(&mut self) {
        if let Some(provider) = self.provider.take() {
            provider.stop().await;
        }
    }

    fn run(&self, command: &[&str], source: &[&str]) -> Finished {
        self.node.run(&[command, source].concat())
    }

    /// The report, of which only the exit code tells a result from an error.
    fn json(&self, command: &[&str], source: &[&str]) -> (Option<i32>, Value) {
        let finished = self.run(command, &[source, &["--output", "json"]].concat());
        assert_eq!(finished.err, "");
        let report = serde_json::from_str(&finished.out).unwrap();
        assert_published(&report);
        (finished.code, report)
    }

    fn live(&self) -> Vec<String> {
        self.corpus.live().to_vec()
    }

    fn files(&self) -> [Vec<u8>; 2] {
        let files = [self.node.state_file(), self.node.checkpoint()];
        files.map(|path| fs::read(path).unwrap())
    }
}

fn text(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn check<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id)
}

fn status(report: &Value, id: &str) -> String {
    let check = check(report, id).unwrap_or_else(|| panic!("{id}: {report:#}"));
    check["status"].as_str().unwrap().to_owned()
}

const RETIRE: [&str; 3] = ["retire-versions", "--before-version", "2"];

#[tokio::test]
async fn objects_below_every_prefix_count_in_every_command() {
    let mut shared = Shared::new().await;
    let file = shared.corpus.snapshot("shared.db");
    let file = file.to_str().unwrap();
    let live = shared.live();
    let live = text(&live);
    shared.stop().await;

    let row = |resource: &str| json!([{"transitVersion": 1, "resource": resource, "objects": 1}]);
    for (source, prefix, resource, confidence) in [
        (&live[..], None, "secrets below /openshift.io", "proven"),
        (
            &live,
            Some("registry/"),
            "secrets below /openshift.io",
            "proven",
        ),
        (&live, Some("/openshift.io"), "secrets", "proven"),
        (
            &["--etcd-snapshot", file],
            None,
            "secrets below /openshift.io",
            "limited",
        ),
        (
            &["--etcd-snapshot", file],
            Some("/openshift.io"),
            "secrets",
            "limited",
        ),
    ] {
        let prefix = prefix.map(|prefix| ["--etcd-prefix", prefix]);
        let source = [source, prefix.as_ref().map_or(&[][..], |it| it)].concat();
        let (code, report) = shared.json(&["verify-rotation"], &source);
        assert_eq!((code, &report["verdict"]), (Some(4), &json!("unfinished")));
        assert_eq!(report["confidence"], confidence);
        assert_eq!(report["objectsUnderOldVersions"], 1);
        assert_eq!(report["underOldVersions"], row(resource), "{source:?}");
        assert!(report["sources"][0].get("unread").is_none(), "{report:#}");
        let (code, plan) = shared.json(&RETIRE, &source);
        assert_eq!((code, &plan["verdict"]), (Some(4), &json!("needed")));
        let (code, pair) = shared.json(&["verify-backup", "--depth", "data"], &source);
        assert_eq!((code, &pair["verdict"]), (Some(0), &json!("compatible")));
        assert_eq!(pair["etcd"]["objects"], 2);
        assert_eq!(status(&pair, "data.open"), "pass");
    }
    let (_, report) = shared.json(&["verify-rotation"], &live);
    let next = report["nextSteps"].to_string();
    assert!(
        next.contains("through the API server with their prefix"),
        "{next}"
    );

    let before = shared.files();
    let (_, plan) = shared.json(&RETIRE, &live);
    let apply = [
        "--apply",
        "--expected-state-hash",
        plan["stateHash"].as_str().unwrap(),
    ];
    let registry = ["--etcd-prefix", "/registry"];
    for source in [live.clone(), vec!["--etcd-snapshot", file]] {
        let source = [&source[..], &registry, &apply].concat();
        let refused = shared.run(&RETIRE, &source);
        assert_eq!(refused.code, Some(4), "{}{}", refused.out, refused.err);
        let needed = "  secrets below /openshift.io 1  ";
        assert!(refused.out.contains(needed), "{}", refused.out);
    }
    assert_eq!(shared.files(), before);

    let out = shared.corpus.directory.path().join("record.json");
    let record = ["record-backup", "--out", out.to_str().unwrap()];
    let (code, recorded) = shared.json(&record, &["--etcd-snapshot", file]);
    assert_eq!(code, Some(0), "{recorded:#}");
    let required = json!([
        {"transitVersion": 1, "objects": 1},
        {"transitVersion": 2, "objects": 1},
    ]);
    assert_eq!(recorded["etcdSnapshot"]["requiredVersions"], required);
    // A running etcd has neither hash nor size.
    let noted = [&live[..], &["--record", out.to_str().unwrap()]].concat();
    let (_, pair) = shared.json(&["verify-backup"], &noted);
    let file = json!(["etcdSnapshot.sha256", "etcdSnapshot.bytes"]);
    assert_eq!(pair["notCompared"], file, "{pair:#}");
    assert_eq!(status(&pair, "record.drift"), "skip");
}

#[tokio::test]
async fn a_version_that_another_api_server_uses_is_the_active_one_of_a_rebuilt_state() {
    let mut shared = Shared::new().await;
    // The other way round: only the other API server has written under version 2.
    let etcd = &shared.corpus.etcd;
    let ours = "/registry/secrets/default/ours";
    etcd.put(ours, &shared.first.value(ours, OBJECT));
    let provider = shared.provider.as_ref().unwrap();
    let second = sealer(&shared.node, provider, SourceType::HkdfSeed).await;
    etcd.put(OTHER, &second.value(OTHER, OBJECT));
    let file = shared.corpus.snapshot("other-ahead.db");
    let file = file.to_str().unwrap();
    shared.stop().await;
    fs::remove_file(shared.node.state_file()).unwrap();
    fs::remove_file(shared.node.checkpoint()).unwrap();

    let source = ["--etcd-snapshot", file, "--etcd-prefix", "/registry"];
    let (code, report) = shared.json(&["recover-state"], &source);
    assert_eq!(code, Some(0), "{report:#}");
    let active = &report["state"]["activeTransitVersion"];
    assert_eq!(active, 2, "{report:#}");
}

#[tokio::test]
async fn keys_that_are_left_unread_show_and_forbid_what_rests_on_them() {
    let mut shared = Shared::new().await;
    // Neighbours that a bound without its slash would take for this API server's.
    for key in [
        "/registry-2/secrets/a/b",
        "/registry2/secrets/a/b",
        "/registry",
    ] {
        shared.corpus.etcd.put(key, OBJECT);
    }
    let live = shared.live();
    let only = [&text(&live)[..], &["--etcd-prefix-only"]].concat();
    shared.stop().await;
    let unread = json!({
        "below": "/registry",
        "keys": 4,
        "prefixes": {"/openshift.io": 1, "/registry": 1, "/registry-2": 1, "/registry2": 1},
        "allowed": [],
    });

    let (code, scan) = shared.json(&["scan-etcd"], &only);
    assert_eq!((code, &scan["verdict"]), (Some(0), &json!("limited")));
    assert_eq!((&scan["keys"], &scan["unread"]), (&json!(1), &unread));
    assert_eq!(status(&scan, "etcd.unread"), "warn");
    let (code, report) = shared.json(&["verify-rotation"], &only);
    assert_eq!((code, &report["verdict"]), (Some(0), &json!("finished")));
    assert_eq!(report["confidence"], "limited");
    assert_eq!(report["sources"][0]["unread"], unread);
    let summary = report["headline"].as_str().unwrap();
    assert!(
        summary.contains("below /registry in the running etcd"),
        "{summary}"
    );
    assert_ne!(report["warnings"], json!([]));

    let (code, pair) = shared.json(&["verify-backup"], &only);
    assert_eq!((code, &pair["verdict"]), (Some(5), &json!("inconclusive")));
    assert_eq!(status(&pair, "etcd.unread"), "fail");

    let before = shared.files();
    let (code, plan) = shared.json(&RETIRE, &only);
    assert_eq!((code, &plan["verdict"]), (Some(5), &json!("unread")));
    assert_eq!(plan["confidence"], "limited");
    let names = "--allow-unread-prefixes /openshift.io,/registry,/registry-2,/registry2";
    let next = plan["nextSteps"].to_string();
    assert!(next.contains(names), "{next}");
    let apply = [
        "--apply",
        "--expected-state-hash",
        plan["stateHash"].as_str().unwrap(),
    ];
    // The weakest of several sources decides.
    let file = shared.corpus.directory.path().join("rewritten.db");
    rewritten(&shared, &file);
    let whole = ["--etcd-snapshot", file.to_str().unwrap()];
    for allowed in [&[][..], &["--allow-unread-prefixes", "/registry-2,/other"]] {
        let source = [&only[..], &whole, allowed, &apply].concat();
        let refused = shared.run(&RETIRE, &source);
        assert_eq!(refused.code, Some(5), "{}{}", refused.out, refused.err);
        assert!(
            refused.out.starts_with("retire-versions: unread\n"),
            "{}",
            refused.out
        );
    }
    assert_eq!(shared.files(), before);

    let word: Vec<&str> = names.split(' ').collect();
    let allowed = [&only[..], &word].concat();
    let (code, pair) = shared.json(&["verify-backup"], &allowed);
    assert_eq!((code, &pair["verdict"]), (Some(0), &json!("compatible")));
    let limitations = pair["limitations"].to_string();
    assert!(limitations.contains("were left unread"), "{limitations}");
    let (code, report) = shared.json(&["verify-rotation"], &allowed);
    assert_eq!((code, &report["confidence"]), (Some(0), &json!("limited")));
    let applied = shared.run(&RETIRE, &[&allowed[..], &apply].concat());
    assert_eq!(applied.code, Some(0), "{}{}", applied.out, applied.err);
    let mut rows = applied.out.lines().map(|row| row.split_whitespace());
    let limited = rows.any(|row| row.eq(["confidence", "limited"]));
    assert!(limited, "{}", applied.out);
    assert_eq!(shared.node.versions()[&1], "removed");
}

/// A snapshot in which nothing needs version 1.
fn rewritten(shared: &Shared, file: &Path) {
    let etcd = &shared.corpus.etcd;
    let theirs = etcd.get(OTHER).unwrap();
    let _deleted = etcd.ctl(&["del", OTHER]);
    etcd.save_snapshot(file);
    etcd.put(OTHER, &theirs);
}

#[tokio::test]
async fn an_etcd_user_of_one_prefix_proves_nothing_about_the_others() {
    let mut shared = Shared::new().await;
    let live = shared.live();
    let live = text(&live);
    shared.stop().await;
    shared.corpus.etcd.restrict_to("/registry");
    let unread = json!({"below": "/registry", "prefixes": {}, "allowed": []});

    let (code, scan) = shared.json(&["scan-etcd"], &live);
    assert_eq!((code, &scan["verdict"]), (Some(0), &json!("limited")));
    assert_eq!(scan["unread"], unread);
    let (code, report) = shared.json(&["verify-rotation"], &live);
    assert_eq!((code, &report["verdict"]), (Some(0), &json!("finished")));
    assert_eq!(report["confidence"], "limited");
    assert_eq!(report["sources"][0]["unread"], unread);
    let (code, pair) = shared.json(&["verify-backup", "--depth", "data"], &live);
    assert_eq!((code, &pair["verdict"]), (Some(5), &json!("inconclusive")));
    let (code, plan) = shared.json(&RETIRE, &live);
    assert_eq!((code, &plan["verdict"]), (Some(5), &json!("unread")));
    let message = check(&plan, "etcd.unread").unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("permits this user neither to read nor to count"),
        "{message}"
    );
    let word = [&live[..], &["--allow-unread-prefixes", "/openshift.io"]].concat();
    let (code, plan) = shared.json(&RETIRE, &word);
    assert_eq!((code, &plan["verdict"]), (Some(0), &json!("allowed")));
    assert_eq!(plan["confidence"], "limited");
    let limitations = plan["limitations"].to_string();
    assert!(limitations.contains("the keys outside /registry were left unread"));

    // The keys of the other API server are not there for this user.
    let elsewhere = [&live[..], &["--etcd-prefix", "/openshift.io"]].concat();
    let (code, scan) = shared.json(&["scan-etcd"], &elsewhere);
    assert_eq!((code, &scan["verdict"]), (Some(5), &json!("inconclusive")));
    assert!(scan.to_string().contains("permission denied"), "{scan:#}");

    fs::remove_file(shared.node.state_file()).unwrap();
    fs::remove_file(shared.node.checkpoint()).unwrap();
    let refused = shared.run(&["recover-state"], &live);
    assert_eq!(refused.code, Some(5), "{}{}", refused.out, refused.err);
    assert!(
        refused
            .out
            .contains("keys outside /registry were left unread"),
        "{}",
        refused.out
    );
}

#[tokio::test]
async fn a_scan_below_a_prefix_without_keys_is_not_complete() {
    let mut shared = Shared::new().await;
    let file = shared.corpus.snapshot("shared.db");
    let live = shared.live();
    let empty = Etcd::start().await;
    let nothing = shared.corpus.directory.path().join("empty.db");
    empty.save_snapshot(&nothing);
    shared.stop().await;
    let file = ["--etcd-snapshot", file.to_str().unwrap()];
    for source in [&text(&live)[..], &file] {
        let elsewhere = [source, &["--etcd-prefix", "elsewhere/"]].concat();
        let (code, scan) = shared.json(&["scan-etcd"], &elsewhere);
        assert_eq!((code, &scan["verdict"]), (Some(5), &json!("inconclusive")));
        let found = check(&scan, "etcd.prefix").unwrap();
        assert_eq!(found["status"], "fail");
        assert_eq!(
            found["message"],
            "there is no key below /elsewhere; keys by prefix: /openshift.io 1, /registry 1"
        );
        let (code, scan) = shared.json(&["scan-etcd"], source);
        assert_eq!((code, &scan["verdict"]), (Some(0), &json!("complete")));
        assert_eq!(
            scan["prefixes"],
            json!([{"prefix": "/registry", "keys": 1}, {"prefix": "/openshift.io", "keys": 1}])
        );
        assert!(check(&scan, "etcd.prefix").is_none());
    }
    let nothing = ["--etcd-snapshot", nothing.to_str().unwrap()];
    let (code, scan) = shared.json(&["scan-etcd"], &nothing);
    assert_eq!((code, &scan["verdict"]), (Some(5), &json!("inconclusive")));
}
