//! `verify-rotation`: the same facts, and how little of a finished rotation they prove.

use clap::Args;

use super::{Context, Failure, OutputFlag, exit::Exit, rotation_plan::show};
use crate::rotation_report::Question;

/// Show how far this node has followed a rotation, and what it cannot prove
///
/// Looks neither into Kubernetes nor into etcd or backups, so its confidence is limited. Exit codes
/// as for rotation-plan.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        show(context, &self.output, Question::Verify)
    }
}
