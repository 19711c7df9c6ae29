//! Every pair of state and checkpoint that a start can find, and what `serve` and `inspect-state`
//! make of it. What is refused is refused before OpenBao is asked, and left as it is. What a person
//! is told then is in `rollback.txt`, which is part of the program, so that it also runs where there
//! is no checkout.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use kms_domain::registry::{
    checkpoint::Checkpoint,
    document::{Document, DocumentError},
};
use serde_json::json;
use testkit::files;

use crate::node::{Finished, Node, QUIET};

/// What the two files hold; `None` is a file that is missing.
struct Pair {
    name: &'static str,
    state: Option<String>,
    checkpoint: Option<String>,
}

/// Valid documents of two chains that part at the first generation.
struct Chains {
    node: Node,
    first: Document,
    second: Document,
    third: Document,
    other_first: Document,
    other_second: Document,
}

impl Chains {
    async fn new() -> Self {
        let node = Node::new(QUIET).await;
        let stopped = node.serve().await.stop().await;
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
        let first = Document::decode(&fs::read(node.state_file()).unwrap()).unwrap();
        let second = after(&first);
        let third = after(&second);
        let other_first = with_changed_time(&first);
        let other_second = after(&other_first);
        Self {
            node,
            first,
            second,
            third,
            other_first,
            other_second,
        }
    }

    fn put(&self, pair: &Pair) {
        let texts = [&pair.state, &pair.checkpoint];
        for (path, text) in [self.node.state_file(), self.node.checkpoint()]
            .iter()
            .zip(texts)
        {
            match text {
                Some(text) => files::replace(path, text.as_bytes(), 0o640),
                None => fs::remove_file(path).unwrap(),
            }
        }
    }

    /// Puts a pair back that the next start accepts.
    fn restore(&self) {
        self.put(&pair("good", Some(&self.first), Some(&self.first)));
    }

    fn content(&self) -> [Option<Vec<u8>>; 2] {
        [self.node.state_file(), self.node.checkpoint()].map(|path| fs::read(path).ok())
    }
}

fn pair(name: &'static str, state: Option<&Document>, checkpoint: Option<&Document>) -> Pair {
    Pair {
        name,
        state: state.map(Document::encode),
        checkpoint: checkpoint.map(|document| Checkpoint::of(document).encode()),
    }
}

/// The next document of the chain, with the same registry.
fn after(document: &Document) -> Document {
    let hash = document.hash();
    let generation = document.generation().get();
    let text = document.encode();
    let start = text.find(r#""generation""#).unwrap();
    let end = text.find(r#""currentHash""#).unwrap();
    let next = generation + 1;
    let link = format!(r#""generation": {next}, "previousHash": "{hash}", "#);
    rehashed(
        document,
        &format!("{}{link}{}", &text[..start], &text[end..]),
    )
}

/// Another document of the same generation.
fn with_changed_time(document: &Document) -> Document {
    let text = document.encode();
    let field = r#""observedAtUnix": "#;
    let start = text.find(field).unwrap() + field.len();
    let end = start + text[start..].find(',').unwrap();
    let observed: u64 = text[start..end].parse().unwrap();
    let earlier = observed - 1;
    rehashed(
        document,
        &format!("{}{earlier}{}", &text[..start], &text[end..]),
    )
}

/// The document of a text that still states the hash of the one it was made from.
fn rehashed(origin: &Document, text: &str) -> Document {
    // A wrong hash is answered with the right one.
    let computed = match Document::decode(text.as_bytes()) {
        Err(DocumentError::HashMismatch { computed, .. }) => computed,
        other => panic!("{other:?}"),
    };
    let stated = |hash| format!(r#""currentHash": "{hash}""#);
    let text = text.replace(&stated(origin.hash()), &stated(&computed));
    Document::decode(text.as_bytes()).unwrap()
}

/// Compares what a person is told with what has been reviewed under this name.
#[track_caller]
fn assert_reviewed(name: &str, node: &Node, served: &Finished) {
    let found = transcript(node, served);
    let reviewed = include_str!("rollback.txt")
        .split("== ")
        .find_map(|section| section.strip_prefix(&format!("{name}\n")));
    let found = found.trim_end();
    assert!(
        reviewed.map(str::trim_end) == Some(found),
        "rollback.txt should read:\n== {name}\n{found}"
    );
}

/// Both transcripts, without what differs from run to run.
fn transcript(node: &Node, served: &Finished) -> String {
    let (_, message) = served.err.split_once("error: ").unwrap();
    let inspected = node.run(&["inspect-state"]);
    assert_eq!(inspected.err, "");
    let blocks = inspected.out.trim_end().split("\n\n");
    let tables = ["state and checkpoint of ", "versions\n"];
    let report: Vec<_> = blocks
        .filter(|block| !tables.iter().any(|table| block.starts_with(table)))
        .collect();
    let report = report.join("\n\n");
    let text = format!(
        "--- serve: exit code {}\nerror: {message}--- inspect-state: exit code {}\n{report}",
        served.code.unwrap(),
        inspected.code.unwrap()
    );
    let config = node.write_config();
    let text = text.replace(config.to_str().unwrap(), "<config>");
    let text = text.replace(node.state_dir().to_str().unwrap(), "<directory>");
    let mut redacted = text.split("krs1.");
    let first = redacted.next().unwrap().to_owned();
    let rest = redacted.map(|text| format!("<hash>{}", &text[43..]));
    first + &rest.collect::<String>()
}

#[tokio::test]
async fn a_pair_that_a_crash_can_leave_is_completed() {
    let chains = Chains::new().await;
    let Chains {
        node,
        first,
        second,
        third,
        ..
    } = &chains;
    for (pair, found, rewritten) in [
        (pair("the first", Some(first), Some(first)), "current", None),
        (pair("a later", Some(third), Some(third)), "current", None),
        (
            pair("a first alone", Some(first), None),
            "missing",
            Some("missing"),
        ),
        (
            pair("one ahead", Some(second), Some(first)),
            "behind",
            Some("behind"),
        ),
        (
            pair("one ahead", Some(third), Some(second)),
            "behind",
            Some("behind"),
        ),
    ] {
        chains.put(&pair);
        let inspected = node.inspect();
        assert_eq!(inspected["stateCheckpointStatus"], found, "{}", pair.name);
        let provider = node.serve().await;
        let event = provider.events("state.checkpoint_rewritten").next();
        let reason = event.map(|event| event["reason"].clone());
        assert_eq!(reason, rewritten.map(Into::into), "{}", pair.name);
        assert_eq!(provider.status().await.healthz, "ok");
        provider.stop().await;
        assert_eq!(node.inspect()["stateCheckpointStatus"], "current");
        let document = fs::read(node.state_file()).unwrap();
        assert_eq!(Some(document), pair.state.map(String::into_bytes));
    }
}

#[tokio::test]
async fn without_any_state_a_key_that_was_never_rotated_gives_one() {
    let chains = Chains::new().await;
    let node = &chains.node;
    chains.put(&pair("nothing", None, None));
    assert_eq!(node.run(&["inspect-state"]).code, Some(4));
    node.serve().await.stop().await;
    assert_eq!(node.inspect()["stateGeneration"], 1);

    node.rotate().await;
    chains.put(&pair("nothing", None, None));
    let refused = node.refused().await;
    assert_reviewed("nothing", node, &refused);
    assert_eq!(chains.content(), [None, None]);
}

#[tokio::test]
async fn a_later_state_without_its_checkpoint_is_accepted_only_when_told_to() {
    let chains = Chains::new().await;
    let node = &chains.node;
    let alone = pair("later-alone", Some(&chains.second), None);
    chains.put(&alone);
    let refused = node.refused().await;
    assert_reviewed(alone.name, node, &refused);
    assert!(!node.checkpoint().exists());

    let mut provider = node.spawn_with(&["--accept-missing-checkpoint"]);
    provider.ready().await;
    provider.stop().await;
    let accepted = pair("accepted", Some(&chains.second), Some(&chains.second));
    let [state, checkpoint] = chains.content();
    assert_eq!(state, accepted.state.map(String::into_bytes));
    assert_eq!(checkpoint, accepted.checkpoint.map(String::into_bytes));
    node.serve().await;
}

#[tokio::test]
async fn a_pair_that_no_crash_can_leave_is_refused_and_kept() {
    let mut chains = Chains::new().await;
    // Nothing listens there.
    chains.node.config["openbao"]["address"] = json!("https://127.0.0.1:1");
    let Chains {
        node,
        first,
        second,
        third,
        other_first,
        other_second,
    } = &chains;
    let mut changed = first.encode();
    let count = changed.find(r#""transitVersion": 1"#).unwrap();
    changed.replace_range(count + 18..=count + 18, "2");
    let broken = Pair {
        state: Some(changed),
        ..pair("state-changed", Some(first), Some(first))
    };
    let truncated = Pair {
        checkpoint: Some("{}".to_owned()),
        ..pair("checkpoint-broken", Some(first), Some(first))
    };
    for pair in [
        pair("state-lost", None, Some(first)),
        pair("older", Some(first), Some(second)),
        pair("other-content", Some(other_first), Some(first)),
        pair("too-far-ahead", Some(third), Some(first)),
        pair("other-history", Some(other_second), Some(first)),
        broken,
        truncated,
    ] {
        chains.put(&pair);
        let before = chains.content();
        let refused = node.refused().await;
        assert_reviewed(pair.name, node, &refused);
        // The flag is for a missing checkpoint and must not help against a present one.
        let told = node.spawn_with(&["--accept-missing-checkpoint"]).ended();
        assert_eq!(told.await.code, Some(5), "{}", pair.name);
        assert_eq!(chains.content(), before, "{}", pair.name);
    }
    chains.restore();
}

#[tokio::test]
async fn a_file_that_others_could_have_changed_is_refused() {
    let chains = Chains::new().await;
    let node = &chains.node;
    for (name, path) in [
        ("state-exposed", node.state_file()),
        ("checkpoint-exposed", node.checkpoint()),
    ] {
        fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
        let refused = node.refused().await;
        assert_reviewed(name, node, &refused);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    }
    node.serve().await;
}
