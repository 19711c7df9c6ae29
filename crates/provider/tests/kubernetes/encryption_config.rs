//! Kubernetes' own loader of `EncryptionConfiguration`, on the corpus of the tests that need no Go.

use std::{env, ffi::OsString, fs, path::Path, process::Command};

const CORPUS: &str = "tests/encryption_config";

/// To write the file after a change to the corpus or to the release of Kubernetes, run the loader
/// by hand with these arguments.
#[test]
fn the_answers_on_record_are_those_of_kubernetes() {
    let loader = env::var_os("ENCRYPTION_CONFIG").unwrap_or_else(|| {
        panic!("ENCRYPTION_CONFIG is not set; use `cargo xtask test --kubernetes`")
    });
    let mut files: Vec<OsString> = Vec::new();
    for folder in ["bad", "bare", "good"] {
        let entries = fs::read_dir(Path::new(CORPUS).join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        files.extend(names.map(|name| Path::new(folder).join(name).into_os_string()));
    }
    files.sort();
    let output = Command::new(loader)
        .args(files)
        .current_dir(CORPUS)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let found = String::from_utf8(output.stdout).unwrap();
    let expected = fs::read_to_string(Path::new(CORPUS).join("kubernetes.jsonl")).unwrap();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}
