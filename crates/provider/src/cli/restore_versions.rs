//! `restore-versions`: removed versions decrypt again on this node.

use clap::Args;
use kms_domain::transit::TransitVersion;
use kms_operator::retirement::Wanted;

use super::{Context, Exit, Failure, attest_flags::AttestFlags, review::Review};

/// Plan, or with --apply carry out, that removed key versions decrypt again on this node
///
/// Removed versions become retired, if OpenBao still has them. Plan first, review, stop the
/// provider, then apply with the hash of the plan.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The removed versions to bring back, such as 1,2
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        required = true,
        value_parser = version
    )]
    versions: Vec<TransitVersion>,
    #[command(flatten)]
    review: Review,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let versions = self.versions;
        let wanted = Wanted::Restore { versions };
        self.review
            .run(context, &wanted, None, &AttestFlags::default())
    }
}

fn version(text: &str) -> Result<TransitVersion, &'static str> {
    TransitVersion::parse(text).ok_or("must be a number from 1 up")
}
