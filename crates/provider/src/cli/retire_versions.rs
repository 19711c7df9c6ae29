//! `retire-versions`: old versions stop to decrypt on this node.

use clap::Args;
use kms_domain::transit::TransitVersion;

use super::{Context, Failure, exit::Exit, review::Review};
use crate::retirement::Wanted;

/// Plan, or with --apply carry out, that old key versions decrypt no more on this node
///
/// Retired versions below N become removed; nothing in OpenBao changes, and restore-versions
/// brings them back. Plan first, review, stop the provider, then apply with the hash of the plan.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The lowest version to keep, from 2 up to the active version
    #[arg(long, value_name = "N", value_parser = lowest_kept)]
    before_version: TransitVersion,
    #[command(flatten)]
    review: Review,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let before = self.before_version;
        let apply = format!("retire-versions --before-version {before}");
        self.review.run(context, &Wanted::Retire { before }, &apply)
    }
}

fn lowest_kept(text: &str) -> Result<TransitVersion, &'static str> {
    TransitVersion::parse(text)
        .filter(|version| *version > TransitVersion::FIRST)
        .ok_or("must be a number from 2 up")
}
