//! `scan-etcd` against real etcd: what it counts is what `etcdctl` counts.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use etcd_snapshot::revision::{Object, Revisions};
use kms_node::report::one_line;
use kms_operator::recovery::{
    EtcdSource, Trust,
    etcd_live::{Bounds, EtcdEndpoint, LiveEtcd, TlsFiles},
    inventory::{Inventory, Protected, Wanted},
};
use serde_json::{Value, json};
use testkit::{
    etcd::Etcd,
    files,
    stored::{Sealer, SourceType, random},
};

use crate::{
    bulk,
    corpus::{Corpus, OBJECT},
    node::{Finished, Node, TIMING, program},
};

/// Runs without configuration.
fn scan(arguments: &[&str]) -> Finished {
    let mut command = program();
    command.arg("scan-etcd").args(arguments);
    command.output().unwrap().into()
}

/// The report of a run that did not succeed.
fn parsed(finished: &Finished) -> Value {
    serde_json::from_str(&finished.out).unwrap()
}

fn text(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Objects, bytes, first and last revision of each resource, as `etcdctl` shows them.
fn by_etcdctl(etcd: &Etcd) -> BTreeMap<String, [u64; 4]> {
    let all = etcd.ctl(&["get", "--prefix", "/registry/", "--write-out=json"]);
    let all: Value = serde_json::from_slice(&all).unwrap();
    let mut resources = BTreeMap::new();
    for object in all["kvs"].as_array().unwrap() {
        let bytes = |name: &str| {
            let text = object[name].as_str().unwrap_or_default();
            STANDARD.decode(text).unwrap()
        };
        let key = String::from_utf8(bytes("key")).unwrap();
        let parts: Vec<&str> = key.split('/').collect();
        let resource = match parts[2].contains('.') {
            true => format!("{}.{}", parts[3], parts[2]),
            false => parts[2].to_owned(),
        };
        let size = u64::try_from(bytes("value").len()).unwrap();
        let revision = object["mod_revision"].as_u64().unwrap();
        let [objects, bytes, first, last] =
            resources.entry(resource).or_insert([0, 0, revision, 0]);
        *objects += 1;
        *bytes += size;
        *first = revision.min(*first);
        *last = revision.max(*last);
    }
    resources
}

/// The same of a report.
fn by_report(report: &Value) -> BTreeMap<String, [u64; 4]> {
    let mut resources = BTreeMap::new();
    for row in report["resources"].as_array().unwrap() {
        let number = |name: &str| row[name].as_u64().unwrap();
        let resource = row["resource"].as_str().unwrap().to_owned();
        let revision = number("firstModRevision");
        let [objects, bytes, first, last] =
            resources.entry(resource).or_insert([0, 0, revision, 0]);
        *objects += number("objects");
        *bytes += number("bytes");
        *first = revision.min(*first);
        *last = number("lastModRevision").max(*last);
    }
    resources
}

fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id).unwrap()
}

/// Version, how it is known, objects and seeds of every `key_id` under the provider's name.
fn versions(report: &Value, provider: &str) -> Value {
    let rows = report["keyIds"].as_array().unwrap().iter();
    rows.filter(|row| row["provider"] == provider)
        .map(|row| {
            json!([
                row["transitVersion"],
                row["versionFrom"],
                row["objects"],
                row["distinctEncryptedDeks"],
            ])
        })
        .collect()
}

#[tokio::test]
async fn a_scan_counts_what_etcdctl_counts_in_a_snapshot_and_in_a_running_etcd() {
    let mut node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let corpus = Corpus::of(&node, &provider).await;
    let name = node.config["transit"]["keyIdScope"]["providerName"].clone();
    let name = name.as_str().unwrap();

    let file = corpus.snapshot("all.db");
    let file = file.to_str().unwrap();
    let scanned = node.run(&["scan-etcd", "--etcd-snapshot", file, "--output", "json"]);
    assert_eq!(scanned.code, Some(0), "{}", scanned.err);
    assert_eq!(scanned.err, "");
    let report = scanned.json();
    assert_eq!(report["verdict"], "complete");
    assert_eq!(report["integrity"], "verified");
    assert_eq!(report["limitations"], json!([]));
    assert_eq!(by_report(&report), by_etcdctl(&corpus.etcd));
    let derived = json!([[1, "derived", 3, 3], [2, "derived", 2, 1]]);
    assert_eq!(versions(&report, name), derived);
    let protection = check(&report, "etcd.protection");
    assert_eq!(
        protection["message"],
        "in plaintext: 1 of 8 secrets, 1 of 2 widgets.example.org"
    );

    // Everybody may see this output, so it names no object and holds no ciphertext.
    let shown = node.run(&["scan-etcd", "--etcd-snapshot", file]).out;
    for hidden in ["default/one", "vault:v", "the plaintext"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
    let cells: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for row in [
        &["secrets", "plaintext", "1", "0", "31"][..],
        &["secrets", "kms-v2", "another", "1", "0"],
    ] {
        assert!(cells.iter().any(|it| it.starts_with(row)), "{shown}");
    }
    assert!(shown.starts_with("scan-etcd: complete\n"), "{shown}");
    let named = scan(&["--etcd-snapshot", file, "--show-names"]).out;
    assert!(
        named.contains("  /registry/secrets/default/plain\n"),
        "{named}"
    );

    // Older revisions are there until compaction, and a deleted key is one of them.
    let all = scan(&[
        "--etcd-snapshot",
        file,
        "--all-revisions",
        "--output",
        "json",
    ])
    .json();
    let claimed = json!([[1, "annotation", 5, 3], [2, "annotation", 2, 1]]);
    assert_eq!(versions(&all, name), claimed);
    assert_eq!(all["supersededRevisions"], 2);

    let live = corpus.live();
    let live = [&["scan-etcd", "--output", "json"], &text(&live)[..]].concat();
    let running = node.run(&live);
    assert_eq!(running.code, Some(0), "{}", running.err);
    let running = running.json();
    assert_eq!(running["integrity"], "live");
    for member in ["revision", "keys", "resources", "keyIds"] {
        assert_eq!(running[member], report[member], "{member}");
    }

    // After compaction and defragmentation it is the same, and nothing older.
    let revision = report["revision"].to_string();
    let _answer = corpus.etcd.ctl(&["compact", &revision, "--physical=true"]);
    let _answer = corpus.etcd.ctl(&["defrag"]);
    let file = corpus.snapshot("compacted.db");
    let file = file.to_str().unwrap();
    let arguments = [
        "--etcd-snapshot",
        file,
        "--all-revisions",
        "--output",
        "json",
    ];
    let compacted = scan(&arguments).json();
    assert_eq!(compacted["supersededRevisions"], 0);
    assert_eq!(compacted["compactedRevision"], report["revision"]);
    assert_eq!(compacted["resources"], report["resources"]);

    // The state is enough to derive the versions, and OpenBao being away is no failure.
    provider.stop().await;
    node.config["openbao"]["address"] = json!("https://127.0.0.1:9");
    let alone = node.run(&["scan-etcd", "--etcd-snapshot", file, "--output", "json"]);
    assert_eq!(alone.code, Some(0), "{}", alone.out);
    let alone = alone.json();
    assert_eq!(versions(&alone, name), derived);
    let limitation = alone["limitations"][0].as_str().unwrap();
    assert!(
        limitation.contains("metadata could not be used"),
        "{limitation}"
    );

    // A database copied from a stopped member has no hash.
    let stopped = corpus.etcd.stop().await;
    let database = stopped.database();
    let copied = scan(&[
        "--etcd-snapshot",
        database.to_str().unwrap(),
        "--output",
        "json",
    ]);
    assert_eq!(copied.code, Some(0), "{}", copied.out);
    let copied = copied.json();
    assert_eq!(copied["integrity"], "no-hash");
    assert_eq!(check(&copied, "etcd.integrity")["status"], "warn");
    assert_eq!(copied["resources"], report["resources"]);
}

#[tokio::test]
async fn a_damaged_snapshot_is_no_evidence_and_says_where() {
    let etcd = Etcd::start().await;
    let directory = tempfile::tempdir().unwrap();
    for number in 0..20 {
        etcd.put(&format!("/registry/secrets/default/{number}"), OBJECT);
    }
    let cut = [&b"k8s:enc:kms:v2:ours:"[..], b"\x0a\x7f"].concat();
    etcd.put("/registry/secrets/default/cut", &cut);
    let file = directory.path().join("snapshot.db");
    etcd.save_snapshot(&file);
    let path = file.to_str().unwrap();

    let scanned = scan(&["--etcd-snapshot", path]);
    assert_eq!(scanned.code, Some(4), "{}", scanned.out);
    let first =
        "[fail] etcd.values: Stored values - 1 damaged; the first is of secrets at revision";
    assert!(scanned.out.contains(first), "{}", scanned.out);
    assert!(!scanned.out.contains("default/cut"), "{}", scanned.out);
    let named = scan(&["--etcd-snapshot", path, "--show-names"]).out;
    assert!(
        named.contains("  /registry/secrets/default/cut\n"),
        "{named}"
    );

    let whole = fs::read(&file).unwrap();
    let mut broken = whole.clone();
    // The length of each object, so that its message ends early. Copies lie in pages no longer in
    // use, which nobody reads.
    for at in 1..whole.len() - OBJECT.len() {
        if whole[at..].starts_with(OBJECT) {
            broken[at - 1] = 0x7f;
        }
    }
    files::replace(&file, &broken, 0o600);
    let scanned = scan(&["--etcd-snapshot", path]);
    assert_eq!(scanned.code, Some(4), "{}", scanned.out);
    assert!(
        scanned.out.contains("is damaged at offset "),
        "{}",
        scanned.out
    );
    assert!(scanned.out.contains(": page "), "{}", scanned.out);
    assert!(!scanned.out.contains("\nresources\n"), "{}", scanned.out);

    files::replace(&file, &whole[..whole.len() - 1000], 0o600);
    let scanned = scan(&["--etcd-snapshot", path, "--output", "json"]);
    assert_eq!(scanned.code, Some(4));
    assert_eq!(parsed(&scanned)["verdict"], "damaged");
}

#[tokio::test]
async fn a_snapshot_that_changes_between_two_readings_is_noticed() {
    let etcd = Etcd::start().await;
    etcd.put("/registry/secrets/default/one", OBJECT);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot.db");
    etcd.save_snapshot(&path);
    let source = EtcdSource::file(&path).unwrap();
    let read = || Inventory::gather(&source, &wanted(), &|_| {});
    for _ in 0..2 {
        assert_eq!(read().unwrap().totals.keys, 1);
    }
    // The last byte of the database: no page that is in use has it.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let end = file.metadata().unwrap().len() - 32;
    file.write_all_at(b"x", end - 1).unwrap();
    let error = read().unwrap_err();
    let told = one_line(&error);
    assert!(
        told.ends_with("the file was written to while it was read"),
        "{told}"
    );
    assert!(!error.is_damage(), "another content is no damage: {told}");
}

#[test]
fn an_etcd_that_cannot_be_read_is_not_an_empty_one() {
    let missing = scan(&["--etcd-snapshot", "/nonexistent/snapshot.db"]);
    assert_eq!(missing.code, Some(5));
    assert!(
        missing.out.contains("/nonexistent/snapshot.db"),
        "{}",
        missing.out
    );
    let away = scan(&["--endpoints", "http://127.0.0.1:9", "--output", "json"]);
    assert_eq!(away.code, Some(5), "{}", away.err);
    assert_eq!(parsed(&away)["verdict"], "inconclusive");
    for misuse in [
        &[][..],
        &["--etcd-snapshot", "a", "--endpoints", "https://a:1"],
        &["--endpoints", "http://192.0.2.1:2379"],
        &["--endpoints", "https://a:1"],
        &[
            "--endpoints",
            "https://a:1",
            "--cacert",
            "a",
            "--all-revisions",
        ],
        &["--endpoints", "https://a:1", "--cacert", "a", "--cert", "a"],
    ] {
        let refused = scan(misuse);
        assert_eq!(refused.code, Some(2), "{misuse:?}: {}", refused.err);
    }
}

fn by_hand(provider: &str) -> Sealer {
    Sealer {
        provider: provider.to_owned(),
        source: random(),
        source_type: SourceType::HkdfSeed,
        encrypted_source: b"vault:v1:AAAA".into(),
        key_id: "key".to_owned(),
        annotations: Vec::new(),
    }
}

fn wanted() -> Wanted {
    Wanted {
        revisions: Revisions::Newest,
        prefix: None,
        names: false,
    }
}

fn live(etcd: &Etcd) -> EtcdSource {
    let files = TlsFiles {
        authority: etcd.file("ca.crt"),
        client: Some((etcd.file("client.crt"), etcd.file("client.key"))),
    };
    let endpoint = EtcdEndpoint::parse(etcd.endpoint()).unwrap();
    let bounds = Bounds {
        prefix: "/registry".to_owned(),
        prefix_only: false,
        allowed: Vec::new(),
    };
    let live = LiveEtcd::new(vec![endpoint], Some(&files), bounds, None);
    EtcdSource::Live(live.unwrap())
}

/// On a thread of its own, for a source makes its own runtime.
fn gather(source: &EtcdSource, on_progress: &(dyn Fn() + Sync)) -> Inventory {
    thread::scope(|scope| {
        let gather = || Inventory::gather(source, &wanted(), &|_| on_progress()).unwrap();
        scope.spawn(gather).join().unwrap()
    })
}

#[tokio::test]
async fn a_hundred_thousand_objects_are_counted_one_by_one() {
    // More than etcd shall count for each page.
    const OBJECTS: u64 = 110_000;
    let etcd = Etcd::start().await;
    let directory = tempfile::tempdir().unwrap();
    let sealer = by_hand("ours");
    let key = |number| format!("/registry/secrets/default/{number:06}");
    let all = (0..OBJECTS).map(key).map(|key| {
        let value = sealer.value(&key, OBJECT);
        (key, value)
    });
    bulk::put(&etcd, all).await;
    let file = directory.path().join("large.db");
    etcd.save_snapshot(&file);

    let scanned = scan(&[
        "--etcd-snapshot",
        file.to_str().unwrap(),
        "--output",
        "json",
    ]);
    assert_eq!(scanned.code, Some(0), "{}", scanned.err);
    let report = scanned.json();
    assert_eq!(report["keys"], OBJECTS);
    assert_eq!(report["keyIds"][0]["objects"], OBJECTS);
    assert_eq!(report["keyIds"][0]["distinctEncryptedDeks"], 1);

    let live = gather(&live(&etcd), &|| {});
    assert_eq!(live.totals.keys, OBJECTS);
    assert_eq!(live.groups[0].count.objects, OBJECTS);
}

#[tokio::test]
async fn compaction_during_a_live_read_begins_it_anew_at_a_newer_revision() {
    let etcd = Etcd::start().await;
    let sealer = by_hand("ours");
    let key = |number: u32| format!("/registry/secrets/default/{number:04}");
    let all = (0..4000).map(key).map(|key| {
        let value = sealer.value(&key, OBJECT);
        (key, value)
    });
    bulk::put(&etcd, all).await;
    let compacted = AtomicBool::new(false);
    let once = || {
        if compacted.swap(true, Ordering::Relaxed) {
            return;
        }
        // While the second of four pages is on its way: a key of the first one is deleted, and its
        // revision removed.
        let _answer = etcd.ctl(&["del", &key(0)]);
        etcd.put(&key(9000), OBJECT);
        let status = etcd.ctl(&["endpoint", "status", "--write-out=json"]);
        let status: Value = serde_json::from_slice(&status).unwrap();
        let revision = status[0]["Status"]["header"]["revision"].to_string();
        let _answer = etcd.ctl(&["compact", &revision]);
    };
    let inventory = gather(&live(&etcd), &once);
    assert_eq!(inventory.trust, Trust::Live { restarts: 1 });
    assert_eq!(inventory.totals.keys, 4000);
    let secrets = &inventory.resources["secrets"];
    let encrypted = &secrets[&Protected::KmsV2("ours".to_owned())];
    assert_eq!(
        (encrypted.objects, secrets[&Protected::Plaintext].objects),
        (3999, 1)
    );
}

/// Every key of a reading, in its order.
fn keys(source: &EtcdSource, on_progress: &(dyn Fn() + Sync)) -> Vec<String> {
    thread::scope(|scope| {
        let read = || {
            let push = |keys: &mut Vec<String>, object: Object<'_>| {
                keys.push(String::from_utf8(object.key.to_vec()).unwrap());
            };
            let progress = |_| on_progress();
            let read = source.read(Revisions::Newest, &progress, Vec::new, push);
            read.unwrap().gathered
        };
        scope.spawn(read).join().unwrap()
    })
}

#[tokio::test]
async fn large_objects_are_asked_for_in_smaller_pages() {
    let etcd = Etcd::start().await;
    let small = |kind, number| format!("/registry/{kind}/default/{number:03}");
    let mut all: Vec<_> = (0..600).map(|number| small("a", number)).collect();
    all.extend((0..600).map(|number| small("c", number)));
    let put = all.iter().map(|key| (key.clone(), OBJECT.to_vec()));
    bulk::put(&etcd, put).await;
    // More bytes than an answer may have, in fewer objects than are asked for by then.
    let value = vec![b'x'; 1 << 20];
    for number in 0..70 {
        let key = small("b", number);
        etcd.put(&key, &value);
        all.insert(600 + number, key);
    }
    assert_eq!(keys(&live(&etcd), &|| {}), all);
}

#[tokio::test]
async fn objects_that_are_written_during_a_live_read_do_not_change_it() {
    let etcd = Etcd::start().await;
    let key = |number: u32| format!("/registry/secrets/default/{number:04}");
    let all: Vec<_> = (0..3000).map(key).collect();
    let put = all.iter().map(|key| (key.clone(), OBJECT.to_vec()));
    bulk::put(&etcd, put).await;
    let pages = AtomicU32::new(0);
    let written = || {
        let page = pages.fetch_add(1, Ordering::Relaxed);
        etcd.put(&format!("{}-new", key(page)), OBJECT);
        etcd.put(&format!("{}-new", key(2900 + page)), OBJECT);
        etcd.put(&key(2950 + page), b"other");
        let _deleted = etcd.ctl(&["del", &key(2999 - page)]);
    };
    assert_eq!(keys(&live(&etcd), &written), all);
    assert!(pages.into_inner() >= 3);
}

#[tokio::test]
async fn a_rate_limits_the_objects_a_second() {
    let etcd = Etcd::start().await;
    let key = |number: u32| format!("/registry/secrets/default/{number:04}");
    let put = (0..600).map(|number| (key(number), OBJECT.to_vec()));
    bulk::put(&etcd, put).await;
    let live = live_arguments(&etcd);
    let at = |rate| {
        let rate = ["--etcd-rate", rate, "--output", "json"];
        scan(&[&text(&live)[..], &rate].concat())
    };
    let begin = Instant::now();
    assert_eq!(at("1000").json()["keys"], 600);
    // The second page waits for the time of the 500 objects of the first one.
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert_eq!(at("0").code, Some(2));
}

fn live_arguments(etcd: &Etcd) -> Vec<String> {
    let path = |name: &str| etcd.file(name).display().to_string();
    [
        ("--endpoints", etcd.endpoint().to_owned()),
        ("--cacert", path("ca.crt")),
        ("--cert", path("client.crt")),
        ("--key", path("client.key")),
    ]
    .into_iter()
    .flat_map(|(option, value)| [option.to_owned(), value])
    .collect()
}

#[tokio::test]
async fn an_etcd_that_does_not_let_us_in_is_named_with_the_reason() {
    let etcd = Etcd::start().await;
    etcd.put("/registry/secrets/default/one", OBJECT);
    let stranger = Etcd::start().await;
    let path = |etcd: &Etcd, name: &str| etcd.file(name).display().to_string();
    let (authority, other) = (path(&etcd, "ca.crt"), path(&stranger, "ca.crt"));
    let endpoint = etcd.endpoint();
    let plain = endpoint.replace("https:", "http:");
    for (arguments, reason) in [
        (
            // Whether the alert arrives before the end of the connection is chance.
            &["--endpoints", endpoint, "--cacert", &authority][..],
            "that --cacert, --cert and --key are those of its clients",
        ),
        (
            &["--endpoints", endpoint, "--cacert", &other],
            "invalid peer certificate",
        ),
        (&["--endpoints", &plain], "etcd at http://127.0.0.1"),
    ] {
        let refused = scan(arguments);
        assert_eq!(refused.code, Some(5), "{}", refused.out);
        assert!(refused.out.contains(reason), "{}", refused.out);
        assert!(refused.out.starts_with("scan-etcd: inconclusive\n"));
    }
    // The first member that can be connected to is read.
    let both = format!("https://127.0.0.1:9,{endpoint}");
    let (certificate, key) = (path(&etcd, "client.crt"), path(&etcd, "client.key"));
    let read = scan(&[
        "--endpoints",
        &both,
        "--cacert",
        &authority,
        "--cert",
        &certificate,
        "--key",
        &key,
    ]);
    assert_eq!(read.code, Some(0), "{}", read.out);
}
