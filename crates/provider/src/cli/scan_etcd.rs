//! `scan-etcd`: what etcd holds, how it is protected, and which versions of the key it needs.

use clap::Args;
use etcd_snapshot::revision::Revisions;

use super::{
    Context, Failure, OutputFlag, etcd_source::EtcdFlags, exit::Exit, progress::ProgressLine,
};
use crate::{
    clock::{Clock as _, SystemClock},
    recovery::{inventory::Wanted, scan::scan},
};

/// Show what etcd holds: what protects each resource, and which versions of the key it needs
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
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let config = match &context.flags.config {
            Some(_) => Some(context.load()?.config),
            None => None,
        };
        let source = self.etcd.source(None)?;
        let wanted = Wanted {
            revisions: match self.all_revisions {
                true => Revisions::All,
                false => Revisions::Newest,
            },
            prefix: self.etcd.prefix(),
            names: self.show_names,
        };
        let progress = ProgressLine::new("reading etcd");
        let scan = scan(
            &source,
            &wanted,
            config.as_ref(),
            &|done| progress.show(done),
            SystemClock.now(),
        );
        drop(progress);
        self.output.output.write(&scan, context.out)?;
        Ok(scan.exit())
    }
}
