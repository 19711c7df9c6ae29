//! `rotation-plan`: stage of a rotation on this node, and its next condition.

use clap::Args;
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
};
use kms_operator::{
    recovery::{evidence::Asked, evidence_report::Asker},
    rotation_report::{self, RotationCommand},
};

use super::{Context, Exit, Failure, PageFlags, etcd_source::EvidenceFlags, progress::reading};

/// Show the stage of the key's rotation on this node, and the condition of the next promotion
///
/// Reads the state and the key's metadata and changes nothing. Exit code 4 when OpenBao, the key
/// or the state blocks it; the known facts are shown all the same.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        show(context, &self.output, RotationCommand::Plan, None)
    }
}

pub(super) fn show(
    context: &mut Context<'_>,
    output: &PageFlags,
    command: RotationCommand,
    etcd: Option<&EvidenceFlags>,
) -> Result<Exit, Failure> {
    output.require_new()?;
    let loaded = context.load()?;
    let config = &loaded.config;
    config.auth.jwt_file()?;
    let sources = etcd.map(EvidenceFlags::evidence).transpose()?.flatten();
    let asker = Asker {
        site: Site::new(&loaded.path, Some(config)),
        again: &context.again(),
        unbounded: &context.typed_without(&[("--etcd-prefix-only", false)]),
    };
    let now = SystemClock.now();
    let outcome = reading(|on_progress| {
        let evidence = sources.as_ref().map(|sources| Asked {
            sources,
            on_progress,
        });
        rotation_report::gather(config, command, evidence, asker, now)
    })?;
    output.show(&outcome, context)
}
