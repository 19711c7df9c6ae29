//! `drill` on real backups of both stores: what it proves, what it refuses, and that nothing of it is
//! left and nothing in service noticed it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    etcd::Etcd,
    files,
    openbao::{OpenBao, binary},
    schema::assert_published,
    stored::SourceType,
    tenant::KEY,
};

use crate::{
    corpus::{OBJECT, sealer},
    node::{Finished, Node, TIMING},
    secrets::{files_below, spellings},
};

/// A backup set, and where its drills work.
struct Backups {
    node: Node,
    directory: TempDir,
    /// What was encrypted, and the unseal key; must be nowhere.
    secrets: Vec<Vec<u8>>,
}

impl Backups {
    /// Two objects under version 1 of the key, one under version 2; of OpenBao also a snapshot from
    /// before the rotation.
    async fn of(server: &OpenBao) -> Self {
        let node = Node::on(server, TIMING).await;
        let provider = node.serve().await;
        let etcd = Etcd::start().await;
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut secrets = vec![OBJECT.to_vec()];
        for (name, version) in [("one", 1), ("two", 1), ("three", 2)] {
            if version == 2 {
                server.save_snapshot(&path("older.snap")).await;
                let mount = &node.tenant.transit_mount;
                server.admin().rotate_key(mount, KEY).await.unwrap();
                provider.encrypt_under(2).await;
            }
            let sealer = sealer(&node, &provider, SourceType::HkdfSeed).await;
            let key = format!("/registry/secrets/default/{name}");
            etcd.put(&key, &sealer.value(&key, OBJECT));
            secrets.push(sealer.source.to_vec());
        }
        etcd.save_snapshot(&path("etcd.db"));
        server.save_snapshot(&path("openbao.snap")).await;
        server.write_unseal_key(&path("share"));
        files::directory(&path("work"), 0o700);
        let backups = Self {
            node,
            secrets,
            directory,
        };
        let share = fs::read(backups.path("share")).unwrap();
        Self {
            secrets: [backups.secrets.clone(), vec![share]].concat(),
            ..backups
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The options of a drill with these files of the set.
    fn options(&self, etcd: &str, openbao: &str, share: &str) -> Vec<String> {
        let mut options = vec!["drill".to_owned()];
        for (option, value) in [
            ("--etcd-snapshot", self.path(etcd)),
            ("--openbao-snapshot", self.path(openbao)),
            ("--unseal-key-file", self.path(share)),
            ("--work-dir", self.path("work")),
            ("--metrics-file", self.path("drill.prom")),
            ("--bao", binary().path().to_owned()),
        ] {
            options.extend([option.to_owned(), value.display().to_string()]);
        }
        options
    }

    /// A drill to its end, after which nothing of it may be left.
    fn drill(&self, options: &[String], more: &[&str]) -> Finished {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let done = self.node.run(&[&options[..], more].concat());
        self.assert_nothing_left();
        let mut written = vec![done.out.clone(), done.err.clone()];
        for name in ["drill.prom", "reports"] {
            let path = self.path(name);
            if path.is_dir() {
                files_below(&path, &mut written);
            } else if path.exists() {
                written.push(fs::read_to_string(path).unwrap());
            }
        }
        for spelling in self.secrets.iter().flat_map(|secret| spellings(secret)) {
            let found = written.iter().find(|text| text.contains(&spelling));
            assert_eq!(found, None, "a secret is in the output or in a file");
        }
        done
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.path("work")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(processes(&self.path("work")), Vec::<String>::new());
    }

    fn metric(&self, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path("drill.prom")).unwrap();
        let name = format!("openbao_kms_drill_{name}");
        let mut lines = text.lines().filter(|line| line.starts_with(&name));
        let line = lines.next()?;
        assert!(lines.next().is_none(), "{text}");
        let (_, value) = line.rsplit_once(' ').unwrap();
        Some(value.parse().unwrap())
    }
}

/// The command lines of processes that name the directory.
fn processes(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().unwrap();
    let found = fs::read_dir("/proc").unwrap();
    let lines = found.filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(directory)).collect()
}

fn status(report: &Value, id: &str) -> String {
    let checks = report["checks"].as_array().unwrap().iter();
    let mut checks = checks.filter(|check| check["id"] == id);
    let check = checks.next().unwrap_or_else(|| panic!("{report:#}"));
    check["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn backups_that_belong_together_are_proven_and_nothing_in_service_notices() {
    let server = OpenBao::start().await;
    let backups = Backups::of(&server).await;
    let audit_log = server.audit_log();
    let _stopped = server.stop().await;
    let audited = || {
        let facts = fs::metadata(&audit_log).unwrap();
        (facts.len(), facts.modified().unwrap())
    };
    let before = audited();
    let options = backups.options("etcd.db", "openbao.snap", "share");
    files::directory(&backups.path("reports"), 0o755);
    let reports = backups.path("reports");
    let more = ["--report", reports.to_str().unwrap(), "--output", "json"];
    let report = backups.drill(&options, &more).json();
    assert_eq!(report["verdict"], "compatible");
    assert_eq!(
        report["proven"],
        json!({"objects": 3, "deks": 3, "transitVersions": [1, 2]})
    );
    assert_eq!(status(&report, "drill.isolation"), "pass");
    assert_eq!(report["verification"]["verdict"], "compatible");
    assert_eq!(audited(), before);

    let written = fs::read_dir(&reports).unwrap().next().unwrap().unwrap();
    let mode = written.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    let kept: Value = serde_json::from_slice(&fs::read(written.path()).unwrap()).unwrap();
    assert_published(&kept);
    assert_eq!(kept, report);
    assert_eq!(backups.metric("proven_objects"), Some(3));
    assert_eq!(backups.metric("proven_versions"), Some(2));
    let success = backups.metric("last_success_timestamp_seconds");
    assert_eq!(success, backups.metric("last_run_timestamp_seconds"));
}
