//! Descriptions of a release: provenance, and metadata for `cargo binstall`.

use std::{fs, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{ARCH, BUILDER, DIST, VERSION, artifact, repository, said, succeed};

#[test]
fn the_provenance_names_every_file_and_its_origin() {
    let statement = fs::read_to_string(artifact("provenance.json")).unwrap();
    let statement: Value = serde_json::from_str(&statement).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let predicate = &statement["predicate"];
    assert_eq!(predicate["runDetails"]["builder"]["id"], BUILDER);
    let materials = &predicate["buildDefinition"]["resolvedDependencies"];
    let commit = succeed(repository("git").args(["rev-parse", "HEAD"]));
    assert_eq!(materials[0]["digest"]["gitCommit"], commit.trim());
    let lock = succeed(repository("sha256sum").arg("Cargo.lock"));
    assert_eq!(materials[1]["name"], "Cargo.lock");
    assert!(lock.starts_with(materials[1]["digest"]["sha256"].as_str().unwrap()));
    for material in materials.as_array().unwrap() {
        assert!(material["digest"].is_object(), "{material:#}");
    }

    let subjects = statement["subject"].as_array().unwrap().iter();
    let subjects = subjects.map(|subject| {
        let [name, digest] = [&subject["name"], &subject["digest"]["sha256"]];
        format!("{}  {}\n", digest.as_str().unwrap(), name.as_str().unwrap())
    });
    let list = fs::read_to_string(DIST.join("SHA256SUMS")).unwrap();
    let others = list.split_inclusive('\n');
    let others = others.filter(|line| !line.ends_with("_provenance.json\n"));
    assert_eq!(subjects.collect::<String>(), others.collect::<String>());
}

#[test]
fn other_keys_than_those_of_p256_are_refused_before_the_build() {
    let directory = TempDir::new().unwrap();
    let key = directory.path().join("key.pem");
    let mut generate = Command::new("openssl");
    generate.args(["genpkey", "-algorithm", "ED25519", "-out"]);
    succeed(generate.arg(&key));
    let mut sign = repository(env!("CARGO"));
    sign.args(["xtask", "dist", "--out", "/dev/null/none", "--sign-key"]);
    let refused = sign.arg(&key).output().unwrap();
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("no private key for ECDSA with P-256"),
        "{}",
        said(&refused)
    );
}

/// Each template leads to a published program.
#[test]
fn cargo_binstall_finds_the_programs() {
    let mut metadata = repository(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--locked", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&succeed(&mut metadata)).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    let package = packages
        .find(|package| package["name"] == "provider")
        .unwrap();
    let binstall = &package["metadata"]["binstall"];
    assert_eq!(binstall["pkg-fmt"], "bin");
    let repo = package["repository"].as_str().unwrap();

    let is_release = fs::read_dir(&*DIST).unwrap().any(|file| {
        let name = file.unwrap().file_name();
        name.to_str().unwrap().ends_with(".cdx.json")
    });
    let overrides = binstall["overrides"].as_object().unwrap();
    assert_eq!(overrides.len(), 4);
    for (target, metadata) in overrides {
        let (machine, libc) = target.split_once("-unknown-linux-").unwrap();
        let arch = match machine {
            "x86_64" => "amd64",
            _ => "arm64",
        };
        let variant = match libc {
            "gnu" => "-certauth-pkcs11",
            _ => "",
        };
        let url = metadata["pkg-url"].as_str().unwrap();
        let url = url
            .replace("{ repo }", repo)
            .replace("{ version }", VERSION);
        let name = format!("bao-kms-provider{variant}_{VERSION}_linux_{arch}");
        assert_eq!(url, format!("{repo}/releases/download/v{VERSION}/{name}"));
        // Tests package one program.
        if is_release || (arch, libc) == (ARCH, "gnu") {
            assert!(DIST.join(&name).exists(), "{name}");
        }
    }
}
