//! `cargo xtask fuzz`: runs the fuzz targets, each for a bounded time, on the stable compiler.
//!
//! The code under test has no unsafe blocks. Sanitizers need a nightly compiler and would only
//! check its dependencies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::process::{self, Error, say};

/// Default time for each target, in seconds.
const SECONDS: u32 = 60;

/// The targets in fuzz/fuzz_targets, with the source of their seed inputs.
const TARGETS: [(&str, Seeds); 16] = [
    ("annotations", Seeds::Annotations),
    ("attestation", Seeds::Binary),
    ("authority", Seeds::Text(REQUEST)),
    ("backup_record", Seeds::Texts("record")),
    ("checkpoint", Seeds::Texts("checkpoint")),
    ("config", Seeds::Files("crates/provider/tests/config")),
    ("etcd_key_value", Seeds::Binary),
    ("etcd_snapshot", Seeds::Binary),
    ("exposition", Seeds::Text(METRICS)),
    ("key_id", Seeds::Texts("keyId")),
    ("kms_v2_value", Seeds::Binary),
    ("kubernetes_object", Seeds::Binary),
    ("local_keys", Seeds::Binary),
    ("recovery_journal", Seeds::Texts("journal")),
    ("state_document", Seeds::Texts("state")),
    ("transit_ciphertext", Seeds::Text("vault:v12:AAEC")),
];

/// The size of reads, then a HEADERS frame with an `:authority` and a `:path`.
const REQUEST: &str = "\x07\0\0\x1c\x01\x05\0\0\0\x01A\x11%2Frun%2Fkms.sock\x04\x07/Status";

/// Metrics of a provider, with a sample of each form.
const METRICS: &str = "\
openbao_kms_build_info{version=\"v1.2.3\"} 1
openbao_kms_identity_info{fingerprint=\"cfg1.Ze5UkoNO92EB_k0jWZRyUHkO8pWXnrKeBxuflEHRwGc\"} 1
openbao_kms_key_version 2
openbao_kms_ready 0
openbao_kms_readiness_reason{reason=\"starting\"} 1
openbao_kms_rotation_expected_wait_seconds 1.5
# EOF
";

enum Seeds {
    Text(&'static str),
    /// Every text in conformance/vectors under a member of this name.
    Texts(&'static str),
    /// The annotations in conformance/vectors, one `key=value` per line.
    Annotations,
    /// The files in the subfolders of this folder.
    Files(&'static str),
    /// The files in the target's folder of fuzz/seeds.
    Binary,
}

/// Runs all targets or the one in `options`, which are `[--seconds N] [target]`. The first finding
/// stops the run; cargo-fuzz prints the path of the input and the command to repeat it.
pub(crate) fn run(options: &[&str]) -> Result<(), Error> {
    let (seconds, names) = match options {
        ["--seconds", seconds, names @ ..] => {
            let number = seconds.parse();
            (
                number
                    .map_err(|_| Error::Usage(format!("invalid number of seconds: {seconds}")))?,
                names,
            )
        }
        names => (SECONDS, names),
    };
    let targets: Vec<&(&str, Seeds)> = match names {
        [] => TARGETS.iter().collect(),
        [name] => TARGETS
            .iter()
            .filter(|(target, _)| target == name)
            .collect(),
        _ => return Err(Error::Usage("only one fuzz target is accepted".into())),
    };
    if targets.is_empty() {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        return Err(Error::Usage(format!(
            "unknown fuzz target; the fuzz targets are {names}"
        )));
    }

    let mut version = process::cargo(&["fuzz", "--version"]);
    let installed = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        return Err(Error::Refused(
            "cargo-fuzz is not installed; install it with `cargo install --locked cargo-fuzz@0.13.2` \
             (it needs a C++ compiler, Debian: apt-get install g++)"
                .into(),
        ));
    }
    for (target, seeds) in targets {
        say(&format!("\n== {target}, {seconds} s"));
        plant(target, seeds)?;
        let time = format!("-max_total_time={seconds}");
        process::run(&mut process::cargo(&[
            "fuzz", "run", "-s", "none", target, "--", &time,
        ]))?;
    }
    Ok(())
}

/// Writes the seed inputs into the corpus, beside the inputs found by earlier runs.
fn plant(target: &str, seeds: &Seeds) -> Result<(), Error> {
    let inputs = match seeds {
        Seeds::Text(text) => vec![(*text).into()],
        Seeds::Texts(name) => collect(|vectors, into| texts(vectors, name, into))?,
        Seeds::Annotations => collect(|vectors, into| sets(&vectors["written"], into))?,
        Seeds::Files(folder) => {
            let mut inputs = Vec::new();
            for folder in list(&process::root().join(folder))? {
                for path in list(&folder)? {
                    inputs.push(fs::read(&path).map_err(Error::file("read", &path))?);
                }
            }
            inputs
        }
        Seeds::Binary => list(&process::root().join("fuzz/seeds").join(target))?
            .iter()
            .map(|path| fs::read(path).map_err(Error::file("read", path)))
            .collect::<Result<_, _>>()?,
    };
    let corpus = process::root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus).map_err(Error::file("create", &corpus))?;
    for (number, input) in inputs.iter().enumerate() {
        let path = corpus.join(format!("seed-{number}"));
        write(&path, input)?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a lost seed is written again")]
fn write(path: &Path, input: &[u8]) -> Result<(), Error> {
    fs::write(path, input).map_err(Error::file("write", path))
}

/// Collects the inputs selected by `pick` from each file of conformance/vectors.
fn collect(pick: impl Fn(&Value, &mut Vec<String>)) -> Result<Vec<Vec<u8>>, Error> {
    let mut inputs = Vec::new();
    for path in list(&process::root().join("conformance/vectors"))? {
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let vectors = serde_json::from_str(&text).map_err(io::Error::from);
        pick(
            &vectors.map_err(Error::file("understand", &path))?,
            &mut inputs,
        );
    }
    Ok(inputs.into_iter().map(String::into_bytes).collect())
}

fn texts(value: &Value, name: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            into.extend(members.get(name).and_then(Value::as_str).map(str::to_owned));
            members
                .values()
                .for_each(|member| texts(member, name, into));
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, name, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn sets(written: &Value, into: &mut Vec<String>) {
    for set in written
        .as_object()
        .into_iter()
        .flat_map(|sets| sets.values())
    {
        let lines = set.as_object().into_iter().flatten();
        let lines =
            lines.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
        into.push(lines.collect::<Vec<_>>().join("\n"));
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
    });
    let mut paths = entries.map_err(Error::file("list", folder))?;
    paths.sort();
    Ok(paths)
}
