//! A release for both architectures. Without `DIST` it is built first, which takes many minutes.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;
use tempfile::TempDir;
use testkit::files;

use crate::{VERSION, repository, succeed};

static RELEASE: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(ready) = env::var_os("DIST") {
        return ready.into();
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
    crate::dist(&["--arch", "all"].map(OsStr::new), &out);
    out
});

#[test]
#[ignore = "builds a release"]
fn the_artifacts_of_a_release_pass_the_same_tests() {
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--skip", "long::"]).env("DIST", &*RELEASE);
    succeed(&mut again);
}

/// The tests of the commands on an emulated machine: versions, configuration, vectors of the
/// key_id and of states.
#[test]
#[ignore = "builds a release"]
fn the_arm64_programs_pass_the_tests_of_the_commands() {
    // A release knows its commit. A configuration of the second test needs PKCS#11, which a static
    // program lacks.
    let skipped = [
        "--",
        "--skip",
        "version_says_what_was_built",
        "--skip",
        "a_file_that_serve_refuses",
    ];
    for (program, skipped) in [
        ("bao-kms-provider", &skipped[..]),
        ("bao-kms-provider-certauth-pkcs11", &skipped[..3]),
    ] {
        let emulated = Emulated::new(program);
        let mut tests = repository(env!("CARGO"));
        tests
            .args([
                "test",
                "--locked",
                "--package",
                "provider",
                "--test",
                "commands",
            ])
            .args(["--features", "package-tests"])
            .args(skipped)
            .env("BAO_KMS_PROVIDER_BIN", emulated.script());
        let passed = succeed(&mut tests);
        assert!(passed.contains("key_id_reproduces_the_published_vectors ... ok"));
    }
}

/// Snapshots of etcd, intact and damaged.
#[test]
#[ignore = "builds a release"]
fn the_arm64_program_reads_snapshots_like_this_one() {
    let emulated = Emulated::new("bao-kms-provider");
    let here = assert_cmd::cargo::cargo_bin("bao-kms-provider");
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/etcd_snapshot");
    let mut scanned = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let seed = seed.unwrap().path();
        let scan = |program: &Path| {
            let mut scan = Command::new(program);
            scan.args(["scan-etcd", "--etcd-snapshot"]).arg(&seed);
            scan.output().unwrap()
        };
        let (there, here) = (scan(&emulated.script()), scan(&here));
        assert_eq!(there.status, here.status, "{}", seed.display());
        assert_eq!(there.stdout, here.stdout, "{}", seed.display());
        assert_eq!(there.stderr, here.stderr, "{}", seed.display());
        scanned += 1;
    }
    assert!(scanned > 0);
}

/// Names, times and order of files depend on the commit alone. The umask and the time zone differ.
#[test]
#[ignore = "packages a program twice"]
fn the_same_program_gives_the_same_artifacts() {
    let checksums = ["umask 022; TZ=UTC", "umask 077; TZ=Asia/Tokyo"].map(|machine| {
        let out = TempDir::new().unwrap();
        let script = format!("{machine} exec cargo xtask dist --program \"$1\" --out \"$2\"");
        let program = assert_cmd::cargo::cargo_bin("bao-kms-provider");
        let mut make = repository("/bin/sh");
        make.args(["-c", &script, "sh"]).arg(program);
        succeed(make.arg(out.path()));
        fs::read_to_string(out.path().join("SHA256SUMS")).unwrap()
    });
    assert_eq!(checksums[0], checksums[1]);
}

/// Two builds from two directories, for this architecture.
#[test]
#[ignore = "builds a release twice"]
fn the_same_commit_gives_the_same_release() {
    let mut twice = repository(env!("CARGO"));
    succeed(twice.args(["xtask", "dist", "--verify-reproducible"]));
}

#[test]
#[ignore = "builds a release"]
fn a_bill_of_materials_has_the_crates_of_its_program() {
    let published = published_schemas();
    let mut registry = jsonschema::Registry::new();
    for (uri, schema) in &published[1..] {
        registry = registry.add(uri.as_str(), schema).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let (_, schema) = &published[0];
    let schema = jsonschema::options()
        .with_registry(&registry)
        .build(schema)
        .unwrap();
    for (program, target, features) in [
        (
            "bao-kms-provider",
            "unknown-linux-musl",
            "--no-default-features",
        ),
        (
            "bao-kms-provider-certauth-pkcs11",
            "unknown-linux-gnu",
            "--features=default",
        ),
    ] {
        for (arch, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
            let name = format!("{program}_{VERSION}_linux_{arch}.cdx.json");
            let bom = fs::read_to_string(RELEASE.join(name)).unwrap();
            // Nothing of the building machine.
            assert!(!bom.contains(env!("CARGO_MANIFEST_DIR")), "{bom}");
            let bom: Value = serde_json::from_str(&bom).unwrap();
            assert_eq!(bom["specVersion"], "1.5");
            let problems = schema.iter_errors(&bom).map(|error| error.to_string());
            assert_eq!(problems.collect::<Vec<_>>(), [""; 0]);
            let component = &bom["metadata"]["component"];
            let components = bom["components"].as_array().unwrap();
            for component in components {
                let is_ours = component["bom-ref"].as_str().unwrap().starts_with("path+");
                let has_digest = component["hashes"][0]["alg"] == "SHA-256";
                assert!(is_ours || has_digest, "{component:#}");
            }
            let listed = components.iter().chain([component]);
            let listed =
                listed.map(|it| format!("{} v{}", text(&it["name"]), text(&it["version"])));
            let listed: BTreeSet<String> = listed.collect();

            let mut tree = repository(env!("CARGO"));
            tree.args(["tree", "--locked", "-p", "provider", features])
                .args([
                    "--edges",
                    "normal,build",
                    "--prefix",
                    "none",
                    "--format",
                    "{p}",
                ])
                .arg(format!("--target={machine}-{target}"));
            let tree = succeed(&mut tree);
            let tree = tree
                .lines()
                .map(|line| line.split(" (").next().unwrap().to_owned());
            assert_eq!(listed, tree.collect());
            let has = |name: &str| listed.iter().any(|it| it.starts_with(name));
            assert!(has("aws-lc-rs v") && !has("ring v") && !has("testkit v"));
            assert_eq!(has("cryptoki v"), features == "--features=default");
        }
    }
}

/// The schemas of CycloneDX 1.5 with their URIs, from a package on PyPI.
fn published_schemas() -> [(String, Value); 3] {
    const PACKAGE: &str = "cyclonedx-python-lib==11.12.0 \
        --hash=sha256:0e807521a921a5c3cb8ce1153f8a61d29eedfe76a46aac2796b7c6b573391a54\n";
    let directory = TempDir::new().unwrap();
    let requirements = directory.path().join("requirements.txt");
    files::replace(&requirements, PACKAGE.as_bytes(), 0o644);
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
    ]);
    pip.arg("--target").arg(directory.path());
    succeed(pip.arg("--requirement").arg(&requirements));
    ["bom-1.5", "spdx", "jsf-0.82"].map(|name| {
        let file = format!("{name}.SNAPSHOT.schema.json");
        let path = directory.path().join("cyclonedx/schema/_res").join(&file);
        let schema = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        // References have the names of the files.
        (format!("http://cyclonedx.org/schema/{file}"), schema)
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A program for arm64, with a script that runs it under QEMU.
struct Emulated(TempDir);

impl Emulated {
    fn new(program: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let program = RELEASE.join(format!("{program}_{VERSION}_linux_arm64"));
        // The help has the name of the file.
        let named = directory.path().join("arm64/bao-kms-provider");
        fs::create_dir(directory.path().join("arm64")).unwrap();
        fs::copy(program, &named).unwrap();
        // The dynamic linker of Debian's package libc6-arm64-cross.
        let script = format!(
            "#!/bin/sh\nexec qemu-aarch64 -L /usr/aarch64-linux-gnu {} \"$@\"\n",
            named.display()
        );
        files::replace(
            &directory.path().join("bao-kms-provider"),
            script.as_bytes(),
            0o755,
        );
        Self(directory)
    }

    fn script(&self) -> PathBuf {
        self.0.path().join("bao-kms-provider")
    }
}
