//! `rotation-plan`: what this node knows of a rotation and what it waits for.

use clap::Args;

use super::{
    Context, Failure, OutputFlag, etcd_source::EvidenceFlags, exit::Exit, progress::ProgressLine,
};
use crate::{
    recovery::evidence::{Asked, EvidenceSources},
    rotation_report::{Question, RotationReport},
};

/// Show what this node knows of the key's rotation and what a new version waits for
///
/// Reads the state and the key's metadata and changes nothing. Exit code 4 when OpenBao, the key
/// or the state stands in the way; what is known is shown all the same.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        show(context, &self.output, Question::Plan, None)
    }
}

pub(super) fn show(
    context: &mut Context<'_>,
    output: &OutputFlag,
    question: Question,
    etcd: Option<&EvidenceFlags>,
) -> Result<Exit, Failure> {
    let config = context.load()?.config;
    config.auth.jwt_file()?;
    let sources = match etcd {
        Some(flags) => EvidenceSources::new(flags.sources()?, flags.prefix()),
        None => None,
    };
    let progress = ProgressLine::new("reading etcd");
    let on_progress = |done| progress.show(done);
    let evidence = sources.as_ref().map(|sources| Asked {
        sources,
        on_progress: &on_progress,
    });
    let report = RotationReport::gather(&config, question, evidence)?;
    drop(progress);
    output.output.write(&report, context.out)?;
    Ok(report.exit())
}
