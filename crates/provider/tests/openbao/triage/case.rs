//! A node in an incident, and what `triage` must say of it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use testkit::schema::assert_published;

use crate::node::{Finished, Node};

/// What must never be done, whatever has happened: a word of each. `--verbose` prints all.
pub(crate) const NEVER: [&str; 8] = [
    "delete or overwrite the encrypted data in etcd",
    "recreate the Transit key",
    "raise min_decryption_version",
    "change the provider name",
    "bypass the associated data",
    "add identity to the EncryptionConfiguration",
    "delete, edit or invent the state",
    "log plaintext",
];

/// What `triage` said.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// Runs it in both forms, which must say the same; nothing may have changed after it.
#[track_caller]
pub(crate) fn triage(node: &Node, options: &[&str], verdict: &str) -> Said {
    let before = files(node);
    // Without the kube-apiservers of other tests.
    let alone = [
        "triage",
        "--node-root",
        node.tenant.path().to_str().unwrap(),
    ];
    let of = match options.contains(&"--node-root") {
        true => [&["triage"], options].concat(),
        false => [&alone, options].concat(),
    };
    let text = node.run(&of);
    let json = node.run(&[&of[..], &["--output", "json"]].concat());
    assert_eq!(files(node), before, "a file was changed");
    said(&text, &json, verdict)
}

/// Judges both forms of one run.
#[track_caller]
pub(crate) fn said(text: &Finished, json: &Finished, verdict: &str) -> Said {
    assert_eq!(json.err, "");
    let report: Value = serde_json::from_str(&json.out).unwrap();
    assert_published(&report);
    assert_eq!(report["verdict"], verdict, "{}", text.out);
    let first = format!("triage: {verdict}\n");
    assert!(text.out.starts_with(&first), "{}", text.out);
    assert_eq!(text.code, json.code);
    assert_eq!(
        Some(report["exitCode"].as_i64().unwrap()),
        json.code.map(i64::from)
    );
    for secret in ["eyJ", "hvs.", "s."] {
        let start = |word: &str| word.starts_with(secret) && word.len() > 20;
        assert!(!text.out.split_whitespace().any(start), "{}", text.out);
    }
    Said {
        text: text.out.clone(),
        json: report,
    }
}

impl Said {
    /// Requires what it means: for the data, and for who runs the command.
    #[track_caller]
    pub(crate) fn means(&self, impact: &str, code: u8, stopped_at: &str) -> &Self {
        assert_eq!(self.json["data"]["impact"], impact, "{}", self.text);
        assert_eq!(self.json["exitCode"], code, "{}", self.text);
        let line = format!("\ndata: {impact} - ");
        assert!(self.text.contains(&line), "{}", self.text);
        assert_eq!(self.json["stoppedAt"], stopped_at, "{}", self.text);
        let warnings = self.json["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), 2, "{}", self.text);
        self.only_skips_after(stopped_at);
        self
    }

    /// Requires that one step to take says this.
    #[track_caller]
    pub(crate) fn next(&self, words: &str) -> &Self {
        assert!(self.has("nextSteps", words), "{words}: {}", self.text);
        self
    }

    /// Requires that the first of what not to do says this.
    #[track_caller]
    pub(crate) fn warns_first(&self, words: &str) -> &Self {
        let first = self.json["warnings"][0].as_str().unwrap();
        assert!(first.contains(words), "{words}: {first}");
        self
    }

    /// Requires that what is broken is told in these words.
    #[track_caller]
    pub(crate) fn found(&self, words: &str) -> &Self {
        let found = self.json["found"].as_str().unwrap();
        assert!(found.contains(words), "{words}: {found}");
        self
    }

    /// The status of a check.
    pub(crate) fn status(&self, id: &str) -> &str {
        let checks = self.json["checks"].as_array().unwrap().iter();
        let mut checks = checks.filter(|check| check["id"] == id);
        checks.next().unwrap()["status"].as_str().unwrap()
    }

    #[track_caller]
    fn only_skips_after(&self, id: &str) {
        let checks = self.json["checks"].as_array().unwrap();
        let fails = |check: &&Value| check["status"] == "fail";
        let failed = checks.iter().find(fails).unwrap();
        assert_eq!(failed["id"], id, "{}", self.text);
        let after = checks.iter().skip_while(|check| check["id"] != id);
        for check in after.filter(|check| check["id"] != id) {
            assert_eq!(check["status"], "skip", "{check:#}");
        }
    }

    fn has(&self, member: &str, words: &str) -> bool {
        let steps = self.json[member].as_array().unwrap().iter();
        let parts = steps.flat_map(|step| [&step["text"], &step["command"]]);
        parts
            .filter_map(Value::as_str)
            .any(|part| part.contains(words))
    }
}

/// Every file that a node has or needs, but for the output of its provider: what it is, its contents,
/// and when it was changed.
fn files(node: &Node) -> BTreeMap<PathBuf, (u32, Vec<u8>, i64)> {
    let mut found = BTreeMap::new();
    let directory = node.state_dir();
    for root in [directory.as_path(), node.tenant.path(), node.sockets.path()] {
        gather(root, &mut found);
    }
    found
}

fn gather(path: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>, i64)>) {
    let Ok(entries) = path.read_dir() else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            gather(&path, found);
        }
        let bytes = if metadata.is_file() {
            fs::read(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        let changed = metadata.mtime_nsec() ^ metadata.ctime();
        found.insert(path, (metadata.mode(), bytes, changed));
    }
}
