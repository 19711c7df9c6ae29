//! `retire-versions`: old versions stop to decrypt on this node.

use clap::Args;
use kms_domain::transit::TransitVersion;
use kms_operator::retirement::Wanted;

use super::{
    Context, Exit, Failure, attest_flags::AttestFlags, etcd_source::EvidenceFlags, review::Review,
};

/// Plan, or with --apply carry out, that old key versions decrypt no more on this node
///
/// Retired versions below N become removed; nothing in OpenBao changes, and restore-versions
/// brings them back. Plan first, review, stop the provider, then apply with the hash of the plan.
///
/// With snapshots or a running etcd, plan and --apply read what objects need, and --apply refuses
/// while any of them needs a version. Exit code 4 then, 5 when etcd could not be read or holds
/// nothing of this provider.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The lowest version to keep, from 2 up to the active version
    #[arg(long, value_name = "N", value_parser = lowest_kept)]
    before_version: TransitVersion,
    #[command(flatten)]
    review: Review,
    #[command(flatten)]
    etcd: EvidenceFlags,
    #[command(flatten)]
    attest: AttestFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let before = self.before_version;
        let wanted = Wanted::Retire { before };
        self.review
            .run(context, &wanted, Some(&self.etcd), &self.attest)
    }
}

fn lowest_kept(text: &str) -> Result<TransitVersion, &'static str> {
    TransitVersion::parse(text)
        .filter(|version| *version > TransitVersion::FIRST)
        .ok_or("must be a number from 2 up")
}
