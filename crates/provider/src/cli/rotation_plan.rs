//! `rotation-plan`: stage of a rotation on this node, and its next condition.

use clap::Args;
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
};
use kms_operator::{
    recovery::{
        evidence::{Asked, EvidenceSources},
        evidence_report::Asker,
    },
    rotation_report::{self, RotationCommand},
};

use super::{
    Context, Exit, Failure, OutputFlag, etcd_source::EvidenceFlags, progress::ProgressLine,
};

/// Show the stage of the key's rotation on this node, and the condition of the next promotion
///
/// Reads the state and the key's metadata and changes nothing. Exit code 4 when OpenBao, the key
/// or the state blocks it; the known facts are shown all the same.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        show(context, &self.output, RotationCommand::Plan, None)
    }
}

pub(super) fn show(
    context: &mut Context<'_>,
    output: &OutputFlag,
    command: RotationCommand,
    etcd: Option<&EvidenceFlags>,
) -> Result<Exit, Failure> {
    let loaded = context.load()?;
    let config = &loaded.config;
    config.auth.supported()?;
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
    let asker = Asker {
        site: Site::new(&loaded.path, Some(config)),
        again: &context.line.typed,
        unbounded: &context.typed_without(&[("--etcd-prefix-only", false)]),
    };
    let outcome = rotation_report::gather(config, command, evidence, asker, SystemClock.now())?;
    drop(progress);
    output.show(&outcome, context)
}
