//! A release for both architectures. Without `DIST` it is built first, which takes many minutes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use tempfile::TempDir;
use testkit::files;

use crate::{VERSION, repository, succeed};

static RELEASE: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(ready) = env::var_os("DIST") {
        return ready.into();
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
    let mut make = repository(env!("CARGO"));
    make.args(["xtask", "dist", "--arch", "all", "--out"]);
    succeed(make.arg(&out));
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
    // A configuration of that test needs PKCS#11, which a static program lacks.
    let skipped = ["--", "--skip", "a_file_that_serve_refuses"];
    for (program, skipped) in [
        ("bao-kms-provider", &skipped[..]),
        ("bao-kms-provider-certauth-pkcs11", &[]),
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
        fs::read_to_string(out.path().join("checksums.txt")).unwrap()
    });
    assert_eq!(checksums[0], checksums[1]);
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
