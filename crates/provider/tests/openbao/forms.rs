//! Snapshots in other forms than etcd's own: what is unpacked, what is named, and what is left.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use flate2::{Compression, write::GzEncoder};
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    big_endian::big_endian, etcd::Etcd, files, openbao::shared_openbao, stored::SourceType,
    wait::wait_until,
};

use crate::{
    corpus::{OBJECT, sealer},
    node::{Finished, Node, TIMING, program},
    provider::{Provider, SOON},
};

/// A snapshot, and where its other forms and temporary files are.
struct Forms {
    directory: TempDir,
    temporary: TempDir,
}

impl Forms {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            temporary: TempDir::new().unwrap(),
        }
    }

    async fn of_etcd() -> Self {
        let forms = Self::new();
        let etcd = Etcd::start().await;
        for number in 0..40 {
            etcd.put(&format!("/registry/secrets/default/{number}"), OBJECT);
        }
        etcd.save_snapshot(&forms.path("etcd.db"));
        forms
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, content: &[u8]) {
        files::replace(&self.path(name), content, 0o600);
    }

    /// What a program writes to its standard output, or `None` if there is no such program.
    fn made(&self, name: &str, program: &str, arguments: &[&str]) -> Option<()> {
        let out = File::create(self.path(name)).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.directory.path());
        let status = command.stdout(out).stderr(Stdio::null()).status().ok()?;
        assert!(status.success(), "{program} {arguments:?}");
        Some(())
    }

    fn gzip(&self, name: &str, content: &[u8]) {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(content).unwrap();
        self.write(name, &gzip.finish().unwrap());
    }

    fn tar(&self, name: &str, members: &[(&str, &[u8])]) {
        self.write(name, &tar(members));
    }

    fn zip(&self, name: &str, members: &[(&str, &[u8])]) {
        let mut zip = zip::ZipWriter::new(File::create(self.path(name)).unwrap());
        for (member, content) in members {
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file(*member, options).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
    }

    fn scan(&self, name: &str) -> Finished {
        let mut command = program();
        command.args(["scan-etcd", "--output", "json", "--etcd-snapshot"]);
        command.arg(self.path(name));
        self.run(command)
    }

    /// With a directory for temporary files that must be empty afterwards.
    fn run(&self, mut command: Command) -> Finished {
        command.env("TMPDIR", self.temporary.path());
        let finished = command.output().unwrap().into();
        self.assert_nothing_left();
        finished
    }

    fn assert_nothing_left(&self) {
        let left = fs::read_dir(self.temporary.path()).unwrap().count();
        assert_eq!(left, 0, "a temporary file is left");
    }
}

pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (member, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_mode(0o600);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, member, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn parsed(finished: &Finished) -> Value {
    serde_json::from_str(&finished.out).unwrap_or_else(|_| panic!("{finished:?}"))
}

#[tokio::test]
async fn a_packed_snapshot_gives_the_report_of_the_plain_one() {
    let forms = Forms::of_etcd().await;
    let snapshot = forms.read("etcd.db");
    let plain = forms.scan("etcd.db");
    assert_eq!(plain.code, Some(0), "{plain:?}");
    let plain = parsed(&plain);

    let names = ["gz", "zip", "zst", "tar", "tar.gz", "tar.zst", "s390x"];
    let names = names.map(|name| format!("etcd.db.{name}"));
    let [gz, zip, zst, tar_name, tar_gz, tar_zst, s390x] = &names;
    forms
        .made(gz, "gzip", &["-c", "etcd.db"])
        .unwrap_or_else(|| forms.gzip(gz, &snapshot));
    let by_python = "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\
                     .write('etcd.db', 'snapshots/etcd.db')";
    let python = Command::new("python3")
        .args(["-c", by_python, zip])
        .current_dir(forms.directory.path())
        .status();
    if !python.is_ok_and(|status| status.success()) {
        forms.zip(zip, &[("snapshots/etcd.db", &snapshot)]);
    }
    let zstd = |content: &[u8]| {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(content, level)
    };
    forms
        .made(zst, "zstd", &["-19", "--long=27", "-c", "etcd.db"])
        .unwrap_or_else(|| forms.write(zst, &zstd(&snapshot)));
    forms
        .made(tar_name, "tar", &["-cf", "-", "./etcd.db"])
        .unwrap_or_else(|| forms.tar(tar_name, &[("etcd.db", &snapshot)]));
    forms.gzip(tar_gz, &forms.read(tar_name));
    forms.write(tar_zst, &zstd(&forms.read(tar_name)));
    forms.write(s390x, &big_endian(&snapshot));
    for name in &names {
        let packed = forms.scan(name);
        assert_eq!(packed.code, Some(0), "{name}: {packed:?}");
        let packed = parsed(&packed);
        for member in [
            "verdict",
            "integrity",
            "revision",
            "keys",
            "resources",
            "checks",
        ] {
            assert_eq!(packed[member], plain[member], "{name}: {member}");
        }
    }

    // What is wrong inside an archive is wrong with the snapshot.
    let mut damaged = snapshot.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    for (name, content) in [
        ("damaged.gz", &damaged[..]),
        ("cut.gz", &snapshot[..snapshot.len() - 4096]),
    ] {
        forms.gzip(name, content);
        let scanned = forms.scan(name);
        assert_eq!(scanned.code, Some(4), "{name}: {scanned:?}");
        assert_eq!(parsed(&scanned)["verdict"], "damaged");
    }
}

#[tokio::test]
async fn every_other_form_is_named_with_the_command_that_unpacks_it() {
    let forms = Forms::of_etcd().await;
    let snapshot = forms.read("etcd.db");
    let whole = |name: &str, program: &str, arguments: &[&str], magic: &[u8]| {
        let made = forms.made(name, program, &[arguments, &["-c", "etcd.db"]].concat());
        made.unwrap_or_else(|| forms.write(name, magic));
    };
    whole("a.xz", "xz", &[], b"\xfd7zXZ\0\0\x04");
    whole("a.bz2", "bzip2", &[], b"BZh91AY&SY");
    whole("a.lz4", "lz4", &["-q"], b"\x04\x22\x4d\x18");
    forms
        .made("a.sqlite", "sqlite3", &["made.db", "create table kine(id)"])
        .map_or_else(
            || forms.write("a.sqlite", b"SQLite format 3\0\x10\0"),
            |()| {
                fs::copy(forms.path("made.db"), forms.path("a.sqlite")).unwrap();
            },
        );
    forms.write("a.7z", b"7z\xbc\xaf\x27\x1c\0\x04");
    forms.write("a.rar", b"Rar!\x1a\x07\x01\0");
    forms.write("a.age", b"age-encryption.org/v1\n-> X25519 x\n");
    forms.write("a.asc", b"-----BEGIN PGP MESSAGE-----\n\n");
    forms.write("a.html", b"<!DOCTYPE html><title>502</title>");
    forms.write("a.txt", b"404 page not found\n");
    forms.write("empty", b"");
    forms.write("random", &[7, 0, 200, 1, 255, 3, 3]);
    files::directory(&forms.path("data"), 0o700);
    assert!(
        Command::new("mkfifo")
            .arg(forms.path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    forms.gzip("whole.gz", &snapshot);
    let gz = forms.read("whole.gz");
    forms.write("truncated.gz", &gz[..gz.len() / 2]);
    forms.write("barely.gz", &gz[..12]);
    let mut flipped = gz.clone();
    let crc = flipped.len() - 6;
    flipped[crc] ^= 1;
    forms.write("flipped.gz", &flipped);
    forms.zip("one.zip", &[("etcd.db", &snapshot)]);
    let zip = forms.read("one.zip");
    forms.write("truncated.zip", &zip[..zip.len() / 2]);
    forms.zip("two.zip", &[("a", &snapshot), ("b", &snapshot)]);
    forms.zip("none.zip", &[]);
    let one = tar(&[("etcd.db", &snapshot)]);
    forms.write("truncated.tar", &one[..one.len() / 2]);
    forms.tar("two.tar", &[("a", &snapshot), ("b", b"b")]);
    forms.gzip("text.gz", b"404 page not found\n");
    forms.write("twice.tar", &tar(&[("etcd.db.gz", &gz)]));
    let raft = tar(&[("meta.json", b"{}"), ("state.bin", b"x")]);
    forms.gzip("raft.snap", &raft);

    let unpack = |command: &str, name: &str| format!("{command} {}", forms.path(name).display());
    let database = forms.path("data/member/snap/db").display().to_string();
    for (name, form, step) in [
        ("a.xz", "an xz archive", unpack("xz -dk", "a.xz")),
        ("a.bz2", "a bzip2 archive", unpack("bzip2 -dk", "a.bz2")),
        ("a.lz4", "an lz4 archive", unpack("lz4 -dk", "a.lz4")),
        ("a.7z", "a 7-Zip archive", unpack("7z x", "a.7z")),
        ("a.rar", "a RAR archive", unpack("unrar x", "a.rar")),
        ("a.age", "encrypted with age", "age -d".to_owned()),
        (
            "a.asc",
            "encrypted with OpenPGP",
            "gpg -o etcd.db -d".to_owned(),
        ),
        ("a.sqlite", "an SQLite database", "has no etcd".to_owned()),
        (
            "a.html",
            "an HTML or XML page",
            "copy the snapshot again".to_owned(),
        ),
        ("a.txt", "a text", "copy the snapshot again".to_owned()),
        (
            "empty",
            "an empty file",
            "copy the snapshot again".to_owned(),
        ),
        (
            "random",
            "no known format",
            "copy the snapshot again".to_owned(),
        ),
        ("data", "a directory", database),
        ("pipe", "a pipe or a device", "save the content".to_owned()),
        ("truncated.gz", "a gzip archive, truncated", String::new()),
        ("barely.gz", "a gzip archive, truncated", String::new()),
        ("flipped.gz", "a gzip archive, damaged", String::new()),
        (
            "truncated.zip",
            "a zip archive, damaged or truncated",
            String::new(),
        ),
        (
            "two.zip",
            "a zip archive with several files",
            unpack("unzip", "two.zip"),
        ),
        (
            "none.zip",
            "a zip archive with no file",
            unpack("unzip", "none.zip"),
        ),
        ("truncated.tar", "a tar archive, truncated", String::new()),
        (
            "two.tar",
            "a tar archive with several files",
            unpack("tar -xf", "two.tar"),
        ),
        (
            "text.gz",
            "a gzip archive with a text",
            unpack("gzip -dk", "text.gz"),
        ),
        (
            "twice.tar",
            "a tar archive with a gzip",
            unpack("tar -xf", "twice.tar"),
        ),
        (
            "raft.snap",
            "a raft snapshot of OpenBao",
            "--openbao-snapshot".to_owned(),
        ),
    ] {
        let scanned = forms.scan(name);
        assert_eq!(scanned.code, Some(5), "{name}: {scanned:?}");
        let report = parsed(&scanned);
        assert_eq!(report["verdict"], "inconclusive", "{name}");
        let check = &report["checks"][0];
        let message = check["message"].as_str().unwrap();
        assert!(message.contains(form), "{name}: {message}");
        assert!(!message.contains("not rely"), "{name}: {message}");
        let next = report["nextSteps"].to_string();
        assert!(next.contains(&step), "{name}: {next}");
    }
}

#[tokio::test]
async fn the_form_of_a_snapshot_condemns_no_pair() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    let forms = Forms::new();
    let etcd = Etcd::start().await;
    let sealer = sealer(&node, &provider, SourceType::HkdfSeed).await;
    let key = "/registry/secrets/default/one";
    etcd.put(key, &sealer.value(key, OBJECT));
    etcd.save_snapshot(&forms.path("etcd.db"));
    let snapshot = forms.read("etcd.db");
    forms.gzip("etcd.db.gz", &snapshot);
    let gz = forms.read("etcd.db.gz");
    forms.write("truncated.gz", &gz[..gz.len() / 2]);
    forms.write("a.xz", b"\xfd7zXZ\0\0\x04");
    forms.write("a.html", b"<html>");
    forms.write("empty", b"");

    let path = |name: &str| forms.path(name).display().to_string();
    let run = |arguments: &[&str]| {
        let done = forms.run(node.program(&[arguments, &["--output", "json"]].concat()));
        (
            done.code,
            serde_json::from_str::<Value>(&done.out).unwrap_or(json!(done.err)),
        )
    };
    let record = |out: &str, etcd: &str| {
        let arguments = [
            "record-backup",
            "--out",
            &path(out),
            "--etcd-snapshot",
            &path(etcd),
        ];
        let (code, report) = run(&arguments);
        assert_eq!(code, Some(0), "{report:#}");
        report["etcdSnapshot"]["sha256"].clone()
    };
    let of_plain = record("plain.json", "etcd.db");
    assert_ne!(
        record("packed.json", "etcd.db.gz"),
        of_plain,
        "the hash of the file as given"
    );

    let verify = |etcd: &str, record: &str| {
        let (etcd, record) = (path(etcd), path(record));
        run(&[
            "verify-backup",
            "--depth",
            "data",
            "--etcd-snapshot",
            &etcd,
            "--record",
            &record,
        ])
    };
    // A record of the plain file is one of its packed copy too, as the database in it is the same.
    for (etcd, record, drift) in [
        ("etcd.db", "plain.json", json!([])),
        ("etcd.db.gz", "plain.json", json!([])),
        ("etcd.db.gz", "packed.json", json!([])),
        (
            "etcd.db",
            "packed.json",
            json!(["etcdSnapshot.sha256", "etcdSnapshot.bytes"]),
        ),
    ] {
        let (code, report) = verify(etcd, record);
        assert_eq!(code, Some(0), "{report:#}");
        assert_eq!(report["verdict"], "compatible");
        let found = report["drift"].as_array().unwrap().iter();
        let found: Value = found.map(|it| it["field"].clone()).collect();
        assert_eq!(found, drift, "{etcd} with {record}");
    }
    for (name, said) in [
        ("truncated.gz", "truncated"),
        ("a.xz", "xz -dk"),
        ("a.html", "copy the snapshot again"),
        ("empty", "copy the snapshot again"),
    ] {
        let (code, report) = verify(name, "plain.json");
        assert_eq!(code, Some(5), "{report:#}");
        assert_eq!(report["verdict"], "inconclusive", "{report:#}");
        assert!(report.to_string().contains(said), "{report:#}");
        let out = path("none.json");
        let arguments = [
            "record-backup",
            "--out",
            &out,
            "--etcd-snapshot",
            &path(name),
        ];
        let (code, said) = run(&arguments);
        assert_eq!(code, Some(5), "{said}");
        assert!(!Path::new(&out).exists());
    }
    drop(provider.stop().await);
    let (state, aside) = (node.state_file(), forms.path("state.json"));
    fs::copy(&state, &aside).unwrap();
    fs::remove_file(&state).unwrap();
    let (code, report) = run(&["recover-state", "--etcd-snapshot", &path("a.xz")]);
    assert_eq!(code, Some(5), "{report:#}");
    assert!(report.to_string().contains("xz -dk"), "{report:#}");
    let (code, report) = run(&["recover-state", "--etcd-snapshot", &path("etcd.db.gz")]);
    assert_eq!(code, Some(0), "{report:#}");
    files::replace(&state, &fs::read(&aside).unwrap(), 0o640);
}

#[tokio::test]
async fn nothing_is_left_of_a_command_that_is_killed_or_has_no_room() {
    let forms = Forms::of_etcd().await;
    let snapshot = forms.read("etcd.db");
    // Takes seconds to unpack, in a debug build at least.
    let mut gzip = GzEncoder::new(
        File::create(forms.path("large.gz")).unwrap(),
        Compression::fast(),
    );
    gzip.write_all(&snapshot[..8192]).unwrap();
    for _ in 0..512 {
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
    }
    gzip.finish().unwrap();

    let mut command = program();
    command
        .args(["scan-etcd", "--etcd-snapshot"])
        .arg(forms.path("large.gz"));
    command.env("TMPDIR", forms.temporary.path());
    let running = Provider::spawn(command, forms.directory.path(), PathBuf::new());
    let open = PathBuf::from(format!("/proc/{}/fd", running.pid()));
    wait_until(SOON, "a temporary file", async || {
        let Ok(files) = fs::read_dir(&open) else {
            // The process is not dumpable, so that only root sees its files.
            return !geteuid().is_root();
        };
        let files = files.filter_map(Result::ok);
        let mut targets = files.filter_map(|file| Some((fs::read_link(file.path()).ok()?, file)));
        targets.any(|(target, file)| {
            let below = target.as_os_str().as_bytes();
            let is_ours = below.starts_with(forms.temporary.path().as_os_str().as_bytes());
            is_ours && fs::metadata(file.path()).is_ok_and(|it| it.nlink() == 0 && it.len() > 0)
        })
    })
    .await;
    forms.assert_nothing_left();
    running.signal(Signal::KILL);
    assert_eq!(running.ended().await.code, None);
    forms.assert_nothing_left();

    // As on a full file system.
    let program = program();
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    limited
        .args(["-c", script, "sh"])
        .arg(program.get_program());
    limited.args(["scan-etcd", "--output", "json", "--etcd-snapshot"]);
    limited.arg(forms.path("large.gz"));
    let full = forms.run(limited);
    assert_eq!(full.code, Some(5), "{full:?}");
    let full = parsed(&full);
    assert!(
        full["nextSteps"].to_string().contains("set TMPDIR"),
        "{full:#}"
    );
    let message = full["checks"][0]["message"].as_str().unwrap();
    let directory = forms.temporary.path().display().to_string();
    assert!(message.contains(&directory), "{message}");
}

/// A real raft snapshot taken apart and put together again, with these changes.
fn raft(snapshot: &[u8], change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
    let gzip = flate2::read::GzDecoder::new(snapshot);
    let mut archive = tar::Archive::new(gzip);
    let mut members = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        std::io::copy(&mut entry, &mut content).unwrap();
        members.extend(change(&name, content).map(|content| (name, content)));
    }
    let members: Vec<_> = members.iter().map(|(name, it)| (&**name, &**it)).collect();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&tar(&members)).unwrap();
    gzip.finish().unwrap()
}

/// Each with its exit code and what is said of it.
pub(crate) fn bad_raft_snapshots(good: &[u8]) -> Vec<(&'static str, Vec<u8>, i32, &'static str)> {
    let gzip = |content: &[u8]| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(content).unwrap();
        gzip.finish().unwrap()
    };
    let without = |gone: &'static str| raft(good, move |name, it| (name != gone).then_some(it));
    let mut flipped = good.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    vec![
        ("empty", Vec::new(), 5, "an empty file"),
        ("html", b"<html>".to_vec(), 5, "an HTML or XML page"),
        ("text", b"permission denied\n".to_vec(), 5, "a text"),
        ("tar", tar(&[("meta.json", b"{}")]), 5, "a tar archive"),
        (
            "gz-of-text",
            gzip(b"permission denied\n"),
            5,
            "without a tar",
        ),
        (
            "other-archive",
            gzip(&tar(&[("a", b"a")])),
            5,
            "other files",
        ),
        ("truncated", good[..good.len() / 2].to_vec(), 4, "truncated"),
        ("flipped", flipped, 4, "damaged"),
        ("no-meta", without("meta.json"), 4, "no meta.json"),
        ("no-state", without("state.bin"), 4, "no state.bin"),
        ("no-sums", without("SHA256SUMS"), 4, "no SHA256SUMS"),
        (
            "wrong-sums",
            raft(good, |name, it| {
                Some(if name == "SHA256SUMS" {
                    it.to_ascii_uppercase()
                } else {
                    it
                })
            }),
            4,
            "does not name",
        ),
        (
            "other-state",
            raft(good, |name, mut it| {
                if name == "state.bin" {
                    let middle = it.len() / 2;
                    it[middle] ^= 1;
                }
                Some(it)
            }),
            4,
            "the SHA-256 of state.bin differs",
        ),
    ]
}

#[tokio::test]
async fn record_backup_notes_no_openbao_snapshot_that_is_none() {
    let node = Node::new(TIMING).await;
    drop(node.serve().await);
    let forms = Forms::of_etcd().await;
    shared_openbao()
        .await
        .save_snapshot(&forms.path("openbao.snap"))
        .await;
    let good = forms.read("openbao.snap");
    let out = forms.path("record.json");
    let record = |name: &str| {
        let (out, snapshot) = (
            out.display().to_string(),
            forms.path(name).display().to_string(),
        );
        node.run(&[
            "record-backup",
            "--out",
            &out,
            "--openbao-snapshot",
            &snapshot,
        ])
    };
    let mut bad = bad_raft_snapshots(&good);
    bad.push((
        "etcd.db",
        forms.read("etcd.db"),
        5,
        "such as an etcd snapshot",
    ));
    for (name, content, code, said) in bad {
        forms.write(name, &content);
        record(name).assert_told(code, &[said, "no record was written", "next: "]);
        assert!(!out.exists(), "{name}");
    }
    let unsealed = raft(&good, |name, it| {
        (name != "SHA256SUMS.sealed").then_some(it)
    });
    forms.write("unsealed", &unsealed);
    let recorded = record("unsealed");
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    let warned = "[warn] openbao.snapshot";
    assert!(recorded.out.contains(warned), "{}", recorded.out);
    fs::remove_file(&out).unwrap();
    let recorded = record("openbao.snap");
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    assert!(
        recorded.out.contains("[pass] openbao.snapshot"),
        "{}",
        recorded.out
    );
}
