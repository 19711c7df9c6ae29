//! `inspect-state` on the published documents, on everything that must be refused, and on files
//! that others could have touched.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode};
use serde_json::Value;
use tempfile::TempDir;

use super::{Finished, config_for, run, vectors, write};

const STATE: &str = "key-registry.json";
const CHECKPOINT: &str = "key-registry.json.checkpoint";

#[test]
fn the_published_documents_are_valid() {
    for pair in published() {
        let node = Node::with(Some(&pair.state), Some(&pair.checkpoint));
        let shown = node.inspect(&["--output", "json"]);
        assert_eq!((shown.code, shown.err.as_str()), (0, ""), "{}", pair.name);
        let shown = shown.json();
        assert_eq!(shown["checks"][0]["status"], "pass");
        assert_eq!(shown["checks"][1]["status"], "skip");
        let document: Value = serde_json::from_str(&pair.state).unwrap();
        assert_eq!(shown["stateHash"], document["currentHash"]);
        assert_eq!(shown["stateGeneration"], document["generation"]);
        let records = shown["records"].as_array().unwrap();
        assert_eq!(
            records.len(),
            document["snapshots"].as_array().unwrap().len()
        );
    }
}

#[test]
fn a_valid_pair_is_shown_in_text_and_json() {
    let rotated = pair("rotated");
    let node = Node::with(Some(&rotated.state), Some(&rotated.checkpoint));
    insta::assert_snapshot!("inspect-state", node.transcript(&[]));
    insta::assert_snapshot!("inspect-state-json", node.transcript(&["--output", "json"]));
}

#[test]
fn every_refused_document_has_a_message_of_its_own_rule() {
    for case in vectors("state_refused.json")["documents"]
        .as_array()
        .unwrap()
    {
        let node = Node::with(case["state"].as_str(), Some(&pair("initial").checkpoint));
        node.assert_refused(case["error"].as_str().unwrap(), &case["claim"]);
    }
}

#[test]
fn every_refused_checkpoint_has_a_message_of_its_own_rule() {
    for case in vectors("checkpoint_refused.json")["checkpoints"]
        .as_array()
        .unwrap()
    {
        let node = Node::with(Some(&pair("initial").state), case["checkpoint"].as_str());
        node.assert_refused(case["error"].as_str().unwrap(), &case["claim"]);
    }
}

#[test]
fn state_and_checkpoint_must_belong_together() {
    let [initial, discovered, rotated, removed] =
        ["initial", "discovered", "rotated", "removed"].map(pair);
    for (claim, state, checkpoint) in [
        ("state-only-in-checkpoint", None, Some(&initial)),
        ("state-older", Some(&rotated), Some(&removed)),
        ("state-too-far-ahead", Some(&removed), Some(&initial)),
        (
            "state-of-another-history",
            Some(&discovered),
            Some(&rotated),
        ),
        ("state-not-linked", Some(&removed), Some(&discovered)),
    ] {
        let node = Node::with(
            state.map(|pair| pair.state.as_str()),
            checkpoint.map(|pair| pair.checkpoint.as_str()),
        );
        let shown = node.inspect(&[]);
        assert_eq!(shown.code, 4, "{claim}");
        insta::assert_snapshot!(claim, node.redact(&shown.transcript()));
    }
}

#[test]
fn a_commit_that_was_cut_short_is_a_warning() {
    let [initial, rotated] = ["initial", "rotated"].map(pair);
    for (claim, state, checkpoint) in [
        ("checkpoint-behind", &rotated, Some(&initial)),
        ("first-checkpoint-missing", &initial, None),
        ("later-checkpoint-missing", &rotated, None),
    ] {
        let node = Node::with(
            Some(&state.state),
            checkpoint.map(|pair: &Pair| pair.checkpoint.as_str()),
        );
        let shown = node.inspect(&[]);
        assert_eq!(shown.code, 0, "{claim}");
        insta::assert_snapshot!(claim, node.redact(&shown.transcript()));
    }
}

#[test]
fn no_state_at_all_fails() {
    let node = Node::with(None, None);
    node.assert_refused("there is neither", &"absent");
}

#[test]
fn files_that_others_could_have_touched_are_refused() {
    let initial = pair("initial");
    for name in [STATE, CHECKPOINT] {
        let node = || Node::with(Some(&initial.state), Some(&initial.checkpoint));

        let open = node();
        set_mode(&open.path(name), 0o660);
        open.assert_refused("has mode 0660", &name);

        let linked = node();
        fs::hard_link(linked.path(name), linked.path("other")).unwrap();
        linked.assert_refused("has further hard links", &name);

        let elsewhere = node();
        rustix::fs::rename(elsewhere.path(name), elsewhere.path("real")).unwrap();
        symlink(elsewhere.path("real"), elsewhere.path(name)).unwrap();
        elsewhere.assert_refused("is not a regular file", &name);

        let fifo = node();
        fs::remove_file(fifo.path(name)).unwrap();
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(CWD, fifo.path(name), FileType::Fifo, mode, 0).unwrap();
        fifo.assert_refused("is not a regular file", &name);

        let directory = node();
        fs::remove_file(directory.path(name)).unwrap();
        fs::create_dir(directory.path(name)).unwrap();
        directory.assert_refused("is not a regular file", &name);
    }
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let initial = pair("initial");
    let node = Node::with(Some(&initial.state), Some(&initial.checkpoint));
    let link = node.path("link");
    symlink(node.directory.path(), &link).unwrap();
    let through_link = run(&["inspect-state", link.join(STATE).to_str().unwrap()]);
    assert_eq!(through_link.code, 4);
    assert!(through_link.out.contains("is a symlink or not a directory"));
    set_mode(node.directory.path(), 0o770);
    node.assert_refused("has mode 0770", &"directory");
}

#[test]
fn with_a_configuration_the_state_must_belong_to_it() {
    // The published documents carry a placeholder that no configuration produces.
    let initial = pair("initial");
    let node = Node::with(Some(&initial.state), Some(&initial.checkpoint));
    let scope = &vectors("key_id.json")["keys"][0]["scope"];
    let config = write(node.directory.path(), "config.yaml", &config_for(scope));
    let compared = node.inspect(&["--config", config.to_str().unwrap()]);
    assert_eq!(compared.code, 4);
    assert!(
        compared
            .out
            .contains("transit.mountPath or transit.keyName differs")
    );

    let mut other = scope.clone();
    other["clusterId"] = "workload-b".into();
    let config = write(node.directory.path(), "config.yaml", &config_for(&other));
    let compared = node.inspect(&["--config", config.to_str().unwrap()]);
    insta::assert_snapshot!("other-identity", node.redact(&compared.transcript()));
}

#[test]
fn what_a_newer_release_wrote_is_no_damage_and_a_huge_file_is() {
    let initial = pair("initial");
    let newer = |text: &str| {
        let text = text.replace("/v1alpha1", "/v9").replace("/v1alpha2", "/v9");
        text.replacen('{', "{\"new\": {}, ", 1)
    };
    let (state, checkpoint) = (newer(&initial.state), newer(&initial.checkpoint));
    let huge = "x".repeat(5 << 20);
    for (state, checkpoint, code) in [
        (&state, &initial.checkpoint, "other_release"),
        (&initial.state, &checkpoint, "other_release"),
        (&huge, &initial.checkpoint, "corrupt_state"),
        (&initial.state, &huge, "corrupt_checkpoint"),
    ] {
        let node = Node::with(Some(state), Some(checkpoint));
        let shown = node.inspect(&["--output", "json"]);
        assert_eq!(shown.code, 4, "{}", shown.out);
        let shown = shown.json();
        let check = &shown["checks"][0];
        assert_eq!(check["details"]["code"], code, "{check:#}");
        let remedy = check["remediation"].as_str().unwrap();
        let newer =
            remedy.contains("use the newer release") && remedy.contains("--replace-newer-release");
        assert_eq!(newer, code == "other_release", "{remedy}");
        assert!(remedy.contains("recover-state"), "{remedy}");
        let said = check["message"].as_str().unwrap();
        assert_eq!(
            said.contains("written by a newer release (schema"),
            newer,
            "{said}"
        );
    }
}

#[test]
fn without_a_file_the_configured_state_is_inspected() {
    let initial = pair("initial");
    let node = Node::with(Some(&initial.state), Some(&initial.checkpoint));
    let scope = &vectors("key_id.json")["keys"][0]["scope"];
    let text = format!(
        "{}state:\n  path: {}\n",
        config_for(scope),
        node.path(STATE).display()
    );
    let config = write(node.directory.path(), "config.yaml", &text);
    let shown = run(&["inspect-state", "--config", config.to_str().unwrap()]);
    assert_eq!(shown.code, 4);
    assert!(shown.out.contains("[pass] registry.state"), "{}", shown.out);
    assert!(
        shown.out.contains("[fail] registry.identity"),
        "{}",
        shown.out
    );
}

/// A state directory of one node.
struct Node {
    directory: TempDir,
}

impl Node {
    fn with(state: Option<&str>, checkpoint: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in [(STATE, state), (CHECKPOINT, checkpoint)] {
            if let Some(content) = content {
                write(directory.path(), name, content);
            }
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn inspect(&self, more: &[&str]) -> Finished {
        let path = self.path(STATE);
        run(&[&["inspect-state", path.to_str().unwrap()], more].concat())
    }

    fn transcript(&self, more: &[&str]) -> String {
        self.redact(&self.inspect(more).transcript())
    }

    /// Takes out what differs from run to run.
    fn redact(&self, text: &str) -> String {
        text.replace(self.directory.path().to_str().unwrap(), "<directory>")
            .lines()
            .map(|line| match line.split_once("\"time\": ") {
                Some((before, _)) => format!("{before}\"time\": \"<time>\",\n"),
                None => format!("{line}\n"),
            })
            .collect()
    }

    fn assert_refused(&self, message: &str, claim: &dyn std::fmt::Debug) {
        let shown = self.inspect(&[]);
        assert_eq!(shown.code, 4, "{claim:?}: {}", shown.out);
        assert!(
            shown.out.contains("[fail] registry.state"),
            "{claim:?}: {}",
            shown.out
        );
        assert!(shown.out.contains(message), "{claim:?}: {}", shown.out);
        assert!(!shown.out.contains("stateHash"), "{claim:?}: {}", shown.out);
    }
}

struct Pair {
    name: String,
    state: String,
    checkpoint: String,
}

fn published() -> Vec<Pair> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    vectors("state.json")["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| Pair {
            name: text(&pair["name"]),
            state: text(&pair["state"]),
            checkpoint: text(&pair["checkpoint"]),
        })
        .collect()
}

fn pair(name: &str) -> Pair {
    published()
        .into_iter()
        .find(|pair| pair.name == name)
        .unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
