//! The bill of materials of a program in CycloneDX: its dependencies for one target, from Cargo.lock.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::program::Published;
use super::{NAME, Release, empty, write};
use crate::process::{self, Error};
use crate::tools;

pub(super) fn make(
    release: &Release,
    program: &Published<'_>,
    out: &Path,
    work: &Path,
) -> Result<(), Error> {
    // The tool writes beside each Cargo.toml: in a copy of the tracked files.
    let sources = work.join("sources");
    empty(&sources)?;
    let mut copy = Command::new("git");
    copy.args(["checkout-index", "--all", "--prefix"])
        .arg(format!("{}/", sources.display()))
        .current_dir(process::root());
    process::run(&mut copy)?;

    let mut describe = Command::new(tools::cyclonedx()?);
    describe
        .args(["cyclonedx", "--quiet", "--format", "json"])
        .args(["--spec-version", "1.5", "--all"])
        .args(["--override-filename", "bom", "--target", &program.target])
        .args(program.features)
        .arg("--manifest-path")
        .arg(sources.join("crates/provider/Cargo.toml"))
        .current_dir(&sources)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    process::run(&mut describe)?;
    let bom = sources.join("crates/provider/bom.json");
    let text = fs::read_to_string(&bom).map_err(Error::file("read", &bom))?;
    let text = text.replace(&sources.display().to_string(), "/build");
    let malformed = |error: serde_json::Error| Error::Refused(format!("{NAME}.cdx.json: {error}"));
    let mut bom: Value = serde_json::from_str(&text).map_err(malformed)?;
    restrict(&mut bom, &tree(program)?);
    let text = serde_json::to_string_pretty(&bom).map_err(malformed)? + "\n";
    let name = format!("{}.cdx.json", program.name);
    write(&out.join(name), text.as_bytes(), 0o644)
}

/// Name and version of each crate in the program or its build, as `NAME VERSION`.
fn tree(program: &Published<'_>) -> Result<BTreeSet<String>, Error> {
    let mut tree = process::cargo(&["tree", "--locked", "--package", "provider"]);
    tree.args(["--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}", "--target", &program.target])
        .args(program.features);
    let lines = process::output(&mut tree)?;
    let crates = lines.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some(format!("{name} {version}"))
    });
    Ok(crates.collect())
}

/// Leaves out the crates of other members of the workspace: cargo-cyclonedx takes the features of
/// all members, those of tests included.
fn restrict(bom: &mut Value, tree: &BTreeSet<String>) {
    let text = |value: &Value, member: &str| value[member].as_str().unwrap_or_default().to_owned();
    let mut kept = BTreeSet::from([text(&bom["metadata"]["component"], "bom-ref")]);
    if let Some(components) = bom["components"].as_array_mut() {
        components
            .retain(|it| tree.contains(&format!("{} {}", text(it, "name"), text(it, "version"))));
        kept.extend(
            components
                .iter()
                .map(|component| text(component, "bom-ref")),
        );
    }
    if let Some(dependencies) = bom["dependencies"].as_array_mut() {
        dependencies.retain(|dependency| kept.contains(&text(dependency, "ref")));
        for dependency in dependencies {
            if let Some(on) = dependency
                .get_mut("dependsOn")
                .and_then(Value::as_array_mut)
            {
                on.retain(|it| it.as_str().is_some_and(|it| kept.contains(it)));
            }
        }
    }
}
