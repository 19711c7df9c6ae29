//! `compare-nodes` on real nodes of one OpenBao: what differs, and whether to go on.

use std::{fs, process::Command, time::Duration};

use openbao_lab::admin::transit::{KeyConfig, NewKey};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::shared_openbao,
    schema::assert_published,
    tenant::{KEY, Timing},
    wait::wait_until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    node::{Finished, Node, QUIET, TIMING, program},
    provider::{Provider, SOON},
};

/// A version that is found waits for longer than the test.
const PATIENT: Timing = Timing {
    activation_delay: Duration::from_secs(3600),
    ..TIMING
};

/// A node on the command line.
enum Seen<'a> {
    Metrics(&'a Provider),
    Socket(&'a Node),
    State(&'a Node),
}

/// Nodes named `a`, `b` and so on, with further options.
fn run(nodes: &[Seen<'_>], options: &[&str]) -> Finished {
    command(nodes, options).output().unwrap().into()
}

fn command(nodes: &[Seen<'_>], options: &[&str]) -> Command {
    let mut command = program();
    command.arg("compare-nodes").args(options);
    for (name, node) in ('a'..).zip(nodes) {
        let (option, place) = match node {
            Seen::Metrics(provider) => ("--metrics", provider.metrics_url()),
            Seen::Socket(node) => ("--socket", node.sockets.socket().display().to_string()),
            Seen::State(node) => ("--state", node.state_file().display().to_string()),
        };
        command.arg(option).arg(format!("{name}={place}"));
    }
    command
}

/// The report, which must have this verdict and the exit code that goes with it.
#[track_caller]
fn compare(nodes: &[Seen<'_>], verdict: &str) -> Value {
    let compared = run(nodes, &["--output", "json"]);
    let report: Value = serde_json::from_str(&compared.out).unwrap();
    assert_published(&report);
    assert_eq!(report["verdict"], verdict, "{report:#}");
    let code = match verdict {
        "agree" => 0,
        "inconclusive" => 5,
        _ => 4,
    };
    assert_eq!(compared.code, Some(code), "{report:#}");
    assert_eq!(report["exitCode"], code);
    assert_eq!(report["safeToContinue"], code == 0);
    assert_eq!(compared.err, "");
    report
}

/// The codes of each node, which are listed by their names.
fn findings(report: &Value) -> Vec<(&str, Vec<&str>)> {
    let mut nodes: Vec<_> = report["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let codes = node["findings"].as_array().unwrap().iter();
            let codes = codes.map(|code| code.as_str().unwrap()).collect();
            (node["name"].as_str().unwrap(), codes)
        })
        .collect();
    nodes.sort();
    nodes
}

/// The status of one check.
fn status<'a>(report: &'a Value, id: &str) -> &'a str {
    let mut checks = report["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["id"] == id).unwrap();
    check["status"].as_str().unwrap()
}

async fn promoted(provider: &mut Provider) {
    provider.encrypt_under(2).await;
    provider.wait_for_event("key.promoted").await;
}

#[tokio::test]
async fn three_nodes_agree_through_metrics_sockets_state_files_and_a_mixture() {
    let first = Node::new(QUIET).await;
    let (second, third) = (first.peer(QUIET), first.peer(QUIET));
    let [a, b, c] = [
        first.serve().await,
        second.serve().await,
        third.serve().await,
    ];
    use Seen::{Metrics, Socket, State};
    for nodes in [
        [Metrics(&a), Metrics(&b), Metrics(&c)],
        [Socket(&first), Socket(&second), Socket(&third)],
        [Metrics(&a), Socket(&second), Metrics(&c)],
    ] {
        let report = compare(&nodes, "agree");
        for (node, codes) in findings(&report) {
            assert_eq!(codes, [""; 0], "{node}");
        }
    }
    let by_socket = compare(&[Socket(&first), Socket(&second)], "agree");
    for check in ["nodes.identity", "nodes.state", "nodes.rotation"] {
        assert_eq!(status(&by_socket, check), "skip", "a socket does not tell");
    }
    // What all know the same of says nothing of who serves.
    let by_state = compare(&[State(&first), State(&second)], "inconclusive");
    let unknown = vec!["serving_unknown"];
    let expected = [("a", unknown.clone()), ("b", unknown.clone())];
    assert_eq!(findings(&by_state), expected);
    let nodes = [Metrics(&a), Socket(&second), State(&third)];
    let mixed = compare(&nodes, "inconclusive");
    let expected = [("a", vec![]), ("b", vec![]), ("c", unknown)];
    assert_eq!(findings(&mixed), expected);
    let versions = mixed["nodes"].as_array().unwrap().iter();
    let versions: Vec<_> = versions.map(|it| &it["activeTransitVersion"]).collect();
    assert_eq!(versions, [1, 1, 1], "a socket's version is told by others");
    let shown = &mixed["nodes"][0];
    assert_eq!(shown["stateCheckpointStatus"], "current");
    assert_eq!(shown["ready"], true);
    assert!(shown["identityFingerprint"].is_string(), "{shown}");

    let text = run(&[Metrics(&a), Metrics(&b)], &[]);
    assert!(
        text.out.starts_with(
            "compare-nodes: agree\nall 2 nodes use version 1 of the same key; it is safe to continue"
        ),
        "{}",
        text.out
    );
    let key_id = a.status().await.key_id;
    assert!(!text.out.contains(&key_id), "only its hash is shown");
}

#[tokio::test]
async fn one_node_under_several_names_agrees_with_nobody() {
    let first = Node::new(QUIET).await;
    let second = first.peer(QUIET);
    let [a, b] = [first.serve().await, second.serve().await];
    use Seen::{Metrics, Socket, State};
    for nodes in [
        [Metrics(&a), Metrics(&a)],
        [Socket(&first), Socket(&first)],
        [Metrics(&a), Socket(&first)],
        [State(&first), State(&first)],
    ] {
        let report = compare(&nodes, "inconclusive");
        let same = vec!["same_node"];
        assert_eq!(findings(&report), [("a", same.clone()), ("b", same)]);
        assert_eq!(status(&report, "nodes.distinct"), "fail");
        let said = "a node is given more than once: a, b; wait before";
        let headline = report["headline"].as_str().unwrap();
        assert!(headline.starts_with(said), "{headline}");
    }
    let report = compare(&[Metrics(&a), Metrics(&b), Socket(&second)], "inconclusive");
    assert_eq!(findings(&report)[0].1, [""; 0]);
    assert_eq!(findings(&report)[2].1, ["same_node"]);

    // Another path, another address, and an equal copy of what another node has.
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join("link");
    std::os::unix::fs::symlink(first.sockets.path(), &link).unwrap();
    let socket = format!("--socket=b={}", link.join("kms.sock").display());
    let metrics = a.metrics().await;
    let forwarded = format!("--metrics=b={}", server(ok(&metrics), true).await);
    let local = a.metrics_url().replace("127.0.0.1", "localhost");
    let older = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("socket_info"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let before = [older(&metrics), older(&b.metrics().await)].map(|text| server(ok(&text), true));
    let [one, other] = before;
    let before = [one.await, other.await].map(|url| format!("--metrics={{}}={url}"));
    let own = format!("--metrics=a={}", a.metrics_url());
    let by_socket = format!("--socket=a={}", first.sockets.socket().display());
    for (nodes, verdict) in [
        ([by_socket, socket], "inconclusive"),
        ([own.clone(), forwarded], "inconclusive"),
        ([own, format!("--metrics=b={local}")], "inconclusive"),
        (
            [before[0].replace("{}", "a"), before[1].replace("{}", "b")],
            "agree",
        ),
    ] {
        let mut command = program();
        command.args(["compare-nodes", "--output", "json"]);
        command.args(&nodes);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let compared: Finished = output.await.unwrap().into();
        let report: Value = serde_json::from_str(&compared.out).unwrap();
        assert_eq!(report["verdict"], verdict, "{nodes:?}: {report:#}");
        let limitations = report["limitations"].to_string();
        let older = limitations.contains("as older releases have them");
        assert_eq!(older, verdict == "agree", "{limitations}");
        if verdict == "inconclusive" {
            assert_eq!(findings(&report)[0].1, ["same_node"]);
        }
    }

    let copy = |node: &Node, name: &str| {
        let directory = place.path().join(name);
        files::directory(&directory, 0o750);
        for file in [node.state_file(), node.checkpoint()] {
            let content = fs::read(&file).unwrap();
            files::replace(&directory.join(file.file_name().unwrap()), &content, 0o640);
        }
        format!(
            "--state={name}={}",
            directory.join("key-registry.json").display()
        )
    };
    let mut command = program();
    command.args(["compare-nodes", "--output", "json"]);
    command.arg(copy(&first, "a")).arg(copy(&first, "b"));
    let compared: Finished = command.output().unwrap().into();
    let report: Value = serde_json::from_str(&compared.out).unwrap();
    assert_eq!(status(&report, "nodes.distinct"), "pass", "{report:#}");
}

#[tokio::test]
async fn during_a_rotation_the_nodes_behind_are_waited_for() {
    let first = Node::new(TIMING).await;
    let (second, third) = (first.peer(PATIENT), first.peer(PATIENT));
    let [mut a, mut b, mut c] = [
        first.serve().await,
        second.serve().await,
        third.serve().await,
    ];
    first.rotate().await;
    promoted(&mut a).await;
    for provider in [&mut b, &mut c] {
        provider.wait_for_event("key.pending").await;
    }
    use Seen::{Metrics, Socket, State};
    for nodes in [
        [Metrics(&a), Metrics(&b), Metrics(&c)],
        [State(&first), State(&second), State(&third)],
        [Socket(&first), Metrics(&b), State(&third)],
    ] {
        let report = compare(&nodes, "rotating");
        let waiting = vec!["promotion_pending"];
        let expected = [("a", vec![]), ("b", waiting.clone()), ("c", waiting)];
        assert_eq!(findings(&report), expected, "{report:#}");
        let node = &report["nodes"].as_array().unwrap()[1];
        assert!(
            report["warnings"].to_string().contains("do not rotate"),
            "{report:#}"
        );
        assert!(node["pendingSince"].is_string() || node["source"] == "socket");
    }
    // Nobody can tell what a lone key without a version is.
    let report = compare(&[Socket(&first), Socket(&second)], "inconclusive");
    let unknown = vec!["unknown_key"];
    assert_eq!(findings(&report), [("a", unknown.clone()), ("b", unknown)]);
}

#[tokio::test]
async fn a_node_that_was_set_back_is_behind_and_does_not_know_it() {
    let first = Node::new(TIMING).await;
    let (second, third) = (first.peer(TIMING), first.peer(QUIET));
    let [mut a, mut b, c] = [
        first.serve().await,
        second.serve().await,
        third.serve().await,
    ];
    first.rotate().await;
    promoted(&mut a).await;
    promoted(&mut b).await;
    let behind = [("a", vec![]), ("b", vec![]), ("c", vec!["behind"])];
    use Seen::{Metrics, State};
    let report = compare(&[Metrics(&a), Metrics(&b), Metrics(&c)], "disagree");
    assert_eq!(findings(&report), behind);
    let said = "stop before the next node, and fix first: c";
    assert_eq!(report["headline"], said);

    c.stop().await;
    let report = compare(&[Metrics(&a), Metrics(&b), State(&third)], "disagree");
    assert_eq!(findings(&report), behind);
    let version = &report["checks"].as_array().unwrap()[5];
    assert_eq!(version["id"], "nodes.version");
    let said = version["message"].as_str().unwrap();
    let expected = "c: version 1, behind version 2 of others and does not know of version 2";
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_node_of_another_cluster_is_named_by_the_majority_or_the_configuration() {
    let first = Node::new(QUIET).await;
    let second = first.peer(QUIET);
    let mut third = first.peer(QUIET);
    third.config["transit"]["keyIdScope"]["clusterId"] = json!("another-cluster");
    let [a, b, c] = [
        first.serve().await,
        second.serve().await,
        third.serve().await,
    ];
    use Seen::{Metrics, State};
    for nodes in [
        [Metrics(&a), Metrics(&b), Metrics(&c)],
        [State(&first), State(&second), State(&third)],
    ] {
        let report = compare(&nodes, "disagree");
        let expected = [("a", vec![]), ("b", vec![]), ("c", vec!["other_identity"])];
        assert_eq!(findings(&report), expected);
        let not = report["warnings"].to_string();
        assert!(not.contains("do not change names"), "{not}");
    }
    let undecided = compare(&[Metrics(&a), Metrics(&c)], "disagree");
    let both = vec!["identity_undecided"];
    assert_eq!(findings(&undecided), [("a", both.clone()), ("b", both)]);
    let config = first.write_config();
    let options = ["--output", "json", "--config", config.to_str().unwrap()];
    let mut decided = command(&[Metrics(&a), Metrics(&c)], &options);
    first.sockets.set_environment(&mut decided);
    let decided = Finished::from(decided.output().unwrap());
    let decided: Value = serde_json::from_str(&decided.out).unwrap();
    let expected = [("a", vec![]), ("b", vec!["other_identity"])];
    assert_eq!(findings(&decided), expected);
}

#[tokio::test]
async fn a_key_made_anew_is_another_key_under_the_same_version() {
    let first = Node::new(QUIET).await;
    let second = first.peer(QUIET);
    first.serve().await.stop().await;
    let mount = &first.tenant.transit_mount;
    let admin = shared_openbao().await.admin();
    let original = first.key_id().await["keyId"].clone();
    // Creation is recorded in whole seconds, so another second must be waited for.
    wait_until(SOON, "a key of another second", async || {
        let deletable = KeyConfig {
            deletion_allowed: Some(true),
            ..KeyConfig::default()
        };
        first.configure_key(deletable).await;
        admin.delete_key(mount, KEY).await.unwrap();
        let new = NewKey::default();
        admin.create_key(mount, KEY, &new).await.unwrap();
        first.key_id().await["keyId"] != original
    })
    .await;
    second.serve().await.stop().await;
    let report = compare(&[Seen::State(&first), Seen::State(&second)], "disagree");
    let other = vec!["other_key"];
    assert_eq!(findings(&report), [("a", other.clone()), ("b", other)]);
    assert!(report["warnings"].to_string().contains("recreate a key"));
}

#[tokio::test]
async fn without_an_answer_of_every_node_nothing_is_agreed() {
    let first = Node::new(QUIET).await;
    let (second, third) = (first.peer(QUIET), first.peer(QUIET));
    let [a, b, c] = [
        first.serve().await,
        second.serve().await,
        third.serve().await,
    ];
    c.signal(Signal::KILL);
    use Seen::{Metrics, Socket, State};
    wait_until(SOON, "the end of a node", async || {
        run(&[Metrics(&a), Metrics(&c)], &[]).code == Some(5)
    })
    .await;
    for lost in [Metrics(&c), Socket(&third)] {
        let report = compare(&[Metrics(&a), Metrics(&b), lost], "inconclusive");
        let expected = [("a", vec![]), ("b", vec![]), ("c", vec!["no_answer"])];
        assert_eq!(findings(&report), expected);
        let answer = &report["checks"][0];
        assert_eq!(answer["id"], "nodes.answer");
        assert_eq!(answer["status"], "fail");
    }
    // Its state still tells its key, and not that the node may be left to serve alone.
    let nodes = [Metrics(&a), Metrics(&b), State(&third)];
    let report = compare(&nodes, "inconclusive");
    let expected = [("a", vec![]), ("b", vec![]), ("c", vec!["serving_unknown"])];
    assert_eq!(findings(&report), expected);
}

#[tokio::test]
async fn a_node_that_does_not_serve_stops_the_next() {
    let first = Node::new(QUIET).await;
    let second = first.peer(TIMING);
    let [a, b] = [first.serve().await, second.serve().await];
    let path = format!("{}/config/keys", first.tenant.transit_mount);
    let admin = shared_openbao().await.admin();
    let body = json!({"disable_upsert": false});
    admin.write(&path, &body).await.unwrap();
    b.wait_for_reasons(&["upsert_allowed"]).await;
    use Seen::{Metrics, Socket};
    for unready in [Metrics(&b), Socket(&second)] {
        let report = compare(&[Metrics(&a), unready], "disagree");
        let expected = [("a", vec![]), ("b", vec!["not_ready"])];
        assert_eq!(findings(&report), expected);
    }
    let report = compare(&[Metrics(&a), Metrics(&b)], "disagree");
    assert!(report["checks"].to_string().contains("b: upsert_allowed"));
}

#[tokio::test]
async fn versions_retired_on_one_node_and_a_state_that_nothing_anchors_are_found() {
    let first = Node::new(TIMING).await;
    let second = first.peer(TIMING);
    let [mut a, mut b] = [first.serve().await, second.serve().await];
    first.rotate().await;
    promoted(&mut a).await;
    promoted(&mut b).await;
    b.stop().await;
    let retire = ["retire-versions", "--before-version", "2"];
    let planned = second.run(&[&retire[..], &["--output", "json"]].concat());
    let planned: Value = serde_json::from_str(&planned.out).unwrap();
    let hash = planned["stateHash"].as_str().unwrap();
    let apply = ["--apply", "--expected-state-hash", hash];
    let applied = second.run(&[&retire[..], &apply].concat());
    assert_eq!(applied.code, Some(0), "{}", applied.err);

    use Seen::{Metrics, State};
    let report = compare(&[Metrics(&a), State(&second)], "disagree");
    let expected = [("a", vec![]), ("b", vec!["missing_versions"])];
    assert_eq!(findings(&report), expected);
    let checks = report["checks"].to_string();
    let said = "b: it has version 1 as removed, which others read";
    assert!(checks.contains(said), "{checks}");

    let checkpoint = fs::read(second.checkpoint()).unwrap();
    fs::remove_file(second.checkpoint()).unwrap();
    let report = compare(&[Metrics(&a), State(&second)], "disagree");
    let expected = [
        ("a", vec![]),
        ("b", vec!["state_refused", "missing_versions"]),
    ];
    assert_eq!(findings(&report), expected);
    fs::remove_file(second.state_file()).unwrap();
    let report = compare(&[Metrics(&a), State(&second)], "disagree");
    assert_eq!(findings(&report)[1].1, ["no_state"]);
    files::replace(&second.checkpoint(), &checkpoint, 0o640);
    let report = compare(&[Metrics(&a), State(&second)], "disagree");
    assert_eq!(findings(&report)[1].1, ["state_refused"]);
    fs::remove_file(second.checkpoint()).unwrap();
}

/// Answers every connection with these bytes, then closes it or never does.
async fn server(answer: Vec<u8>, close: bool) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let Ok(1..) = stream.read(&mut request).await else {
                continue;
            };
            stream.write_all(&answer).await.ok();
            if !close {
                open.push(stream);
            }
        }
    });
    format!("http://{address}")
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn what_is_no_provider_is_no_answer_and_nothing_of_it_is_shown() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let metrics = provider.metrics().await;
    let hash = "openbao_kms_status_key_id_hash{hash=\"";
    let forged = metrics.replace(hash, &format!("{hash}\u{1b}[31mforged"));
    assert_ne!(forged, metrics);
    let redirect = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n".to_vec();
    let endless = format!("# {}\n", "x".repeat(2 << 20));
    for (answer, close, said) in [
        (
            ok("forged_metric 1\n# EOF\n"),
            true,
            "are not the metrics of a bao-kms-provider",
        ),
        (
            ok(metrics.trim_end_matches("# EOF\n")),
            true,
            "broke off before their end",
        ),
        (
            ok(&forged),
            true,
            "the metric openbao_kms_status_key_id_hash cannot be read",
        ),
        (ok(&endless), true, "answered with more than 1048576 bytes"),
        (redirect, true, "HTTP status 302"),
        (
            b"forged\r\n\r\n".to_vec(),
            true,
            "does not answer as an HTTP server does",
        ),
        (Vec::new(), false, "did not answer in time"),
    ] {
        let url = server(answer, close).await;
        let mut command = program();
        command.args(["compare-nodes", "--timeout", "700ms", "--output", "json"]);
        command.arg("--metrics");
        command.arg(format!("a={}", provider.metrics_url()));
        command.arg("--metrics").arg(format!("b={url}"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let compared: Finished = output.await.unwrap().into();
        assert_eq!(compared.code, Some(5), "{}", compared.out);
        assert!(compared.out.contains(said), "{said:?}: {}", compared.out);
        for shown in ["forged", "\u{1b}"] {
            assert!(!compared.out.contains(shown), "{}", compared.out);
        }
    }
}
