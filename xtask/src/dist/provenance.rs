//! The statement of provenance: in-toto Statement v1 with the SLSA predicate v1.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{NAME, Options, Release, digests, read_text, sha256, write};
use crate::process::{self, Error};

/// Files that pin each compiler and each dependency.
const PINS: [&str; 3] = [
    "Cargo.lock",
    "rust-toolchain.toml",
    "xtask/src/tools/zig.txt",
];
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Describes all files in `out`.
pub(super) fn make(
    release: &Release,
    options: &Options,
    builder: &str,
    out: &Path,
) -> Result<(), Error> {
    let subjects = digests(out)?.into_iter();
    let subjects =
        subjects.map(|(name, digest)| json!({"name": name, "digest": {"sha256": digest}}));
    let subjects: Vec<Value> = subjects.collect();

    let source = format!("git+{REPOSITORY}@{}", release.commit);
    let mut materials = vec![json!({"uri": source, "digest": {"gitCommit": release.commit}})];
    for path in PINS {
        let digest = sha256(read_text(path)?.as_bytes());
        materials.push(json!({"name": path, "digest": {"sha256": digest}}));
    }
    let mut rustc = Command::new("rustc");
    let rustc = process::output(rustc.arg("-vV").current_dir(process::root()))?;
    let of_rustc = |field: &str| rustc.lines().find_map(|line| line.strip_prefix(field));
    let commit = of_rustc("commit-hash: ").unwrap_or_default();
    materials.push(json!({
        "name": "rustc",
        "uri": format!("git+https://github.com/rust-lang/rust@{commit}"),
        "digest": {"gitCommit": commit},
        "annotations": {"release": of_rustc("release: ")},
    }));

    let arches: Vec<&str> = options.arches.iter().map(|arch| arch.name).collect();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{REPOSITORY}/cargo-xtask-dist/v1"),
                "externalParameters": {
                    "source": source,
                    "arches": arches,
                    "packages": options.packages,
                    "images": options.images,
                },
                "internalParameters": {"dirty": release.dirty},
                "resolvedDependencies": materials,
            },
            "runDetails": {"builder": {"id": builder}},
        },
    });
    let text = serde_json::to_string_pretty(&statement).unwrap_or_default() + "\n";
    let name = format!("{NAME}_{}_provenance.json", release.version);
    write(&out.join(name), text.as_bytes(), 0o644)
}
