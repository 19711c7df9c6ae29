//! `scan-etcd`: objects in etcd, their protection, and the key versions that they need.

use std::path::Path;

use clap::Args;
use etcd_snapshot::revision::Revisions;
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
};
use kms_operator::recovery::{inventory::Wanted, scan};

use super::{
    Context, Exit, Failure, PageFlags, etcd_source::EtcdFlags, openbao_flags::OpenBaoFlags,
    progress::reading,
};

/// Show the content of etcd: protection of each resource, and versions of the key that it needs
///
/// Reads a snapshot or a running etcd, and decrypts nothing. With --config the version of each
/// key_id is derived from the key's metadata or the state; without, or if neither can be used, it
/// is what the annotations claim. Exit code 4 when the snapshot or a stored value is damaged, 5
/// when etcd cannot be read or has no key below --etcd-prefix.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    etcd: EtcdFlags,
    /// Count older revisions of a snapshot too, as far as compaction has left them
    #[arg(long, conflicts_with = "endpoints")]
    all_revisions: bool,
    /// Show the names of the first few objects of every row
    #[arg(long)]
    show_names: bool,
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.output.require_new()?;
        self.openbao.apply(context);
        let loaded = match &context.flags.config {
            Some(_) => Some(context.load()?),
            None => None,
        };
        let config = loaded.as_ref().map(|loaded| &loaded.config);
        let path = loaded.as_ref().map_or(Path::new(""), |loaded| &loaded.path);
        let etcd = self.etcd.options();
        let site = Site::new(path, config).with_etcd(&etcd);
        let wanted = Wanted {
            revisions: match self.all_revisions {
                true => Revisions::All,
                false => Revisions::Newest,
            },
            prefix: self.etcd.prefix(),
            names: self.show_names,
        };
        let now = SystemClock.now();
        let scanned = self.etcd.source(None).and_then(|source| {
            reading(|on_progress| scan::scan(&source, &wanted, config, &site, on_progress, now))
        });
        let mut outcome = match scanned {
            Ok(outcome) => outcome,
            Err(error) if error.is_misuse() => return Err(error.into()),
            Err(error) => scan::not_read(&error, config, &site, now),
        };
        outcome.set_sources(&context.sources);
        self.output.show(&outcome, context)
    }
}
