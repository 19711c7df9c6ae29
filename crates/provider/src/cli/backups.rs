//! `backups`: which snapshots of two directories belong together, without any key.

use std::path::PathBuf;

use clap::Args;
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
};
use kms_operator::recovery::{
    backups::{Backups, Request, report},
    local_knowledge::LocalKnowledge,
    prefix,
};

use super::{Context, Exit, Failure, PageFlags, progress::reading};

/// Compare the snapshots of two directories: versions needed by etcd, versions offered by OpenBao
///
/// Reads every etcd snapshot, the time and the hashes of every OpenBao snapshot, and the backup records
/// beside them. Asks no server, decrypts nothing and changes nothing. Exit code 0 when the newest etcd
/// snapshot has a match, 4 when each OpenBao snapshot is too old for it, 5 when that could not be
/// established.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Directory of etcd snapshots: of etcdctl, k3s, RKE2, etcd-druid or Talos
    #[arg(long, value_name = "DIRECTORY")]
    etcd_dir: PathBuf,
    /// Directory of `bao operator raft snapshot save`
    #[arg(long, value_name = "DIRECTORY")]
    openbao_dir: PathBuf,
    /// A record that record-backup wrote, outside the directories; repeatable
    #[arg(long, value_name = "FILE")]
    record: Vec<PathBuf>,
    /// As given to kube-apiserver [default: all keys of the snapshots]
    #[arg(long, value_name = "PREFIX", value_parser = prefix::parse)]
    etcd_prefix: Option<String>,
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.output.require_new()?;
        let loaded = context.load()?;
        let config = &loaded.config;
        let known = LocalKnowledge::gather(config, &loaded.path, None);
        let request = Request {
            etcd: self.etcd_dir,
            openbao: self.openbao_dir,
            records: self.record,
            prefix: self.etcd_prefix,
        };
        let gathered =
            reading(|on_progress| Backups::gather(config, &known, &request, on_progress))?;
        let site = Site::new(&loaded.path, Some(config));
        let outcome = report::outcome(config, &gathered, &site, SystemClock.now());
        self.output.show(&outcome, context)
    }
}
