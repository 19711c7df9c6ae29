//! `rotation-plan`: stage of a rotation on this node, and its next condition.

use clap::{ArgGroup, Args};
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
    report::outcome::Outcome,
};
use kms_operator::{
    recovery::{evidence::Asked, evidence_report::Asker},
    rotation_report::{self, Rotation, RotationCommand},
};

use super::{
    Context, Exit, Failure, PageFlags, etcd_source::EvidenceFlags, openbao_flags::OpenBaoFlags,
    progress::reading, repeat::RepeatFlags,
};

/// Show the stage of the key's rotation on this node, and the condition of the next promotion
///
/// Reads the state and the key's metadata and changes nothing. Exit code 4 when OpenBao, the key
/// or the state blocks it; the known facts are shown all the same.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("one_page").args(["watch", "html"]))]
pub(super) struct Options {
    #[command(flatten)]
    repeat: RepeatFlags,
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.output.require_new()?;
        self.openbao.apply(context);
        let once = |context: &mut Context<'_>| gather(context, RotationCommand::Plan, None);
        let outcome = self
            .repeat
            .run(&self.output.output, context, once, is_finished)?;
        self.output.write_page(&outcome)
    }
}

/// Whether the rotation is at its end.
pub(super) fn is_finished(outcome: &Outcome<Rotation>) -> bool {
    outcome.exit() == Exit::Success && outcome.result.is_settled()
}

pub(super) fn gather(
    context: &Context<'_>,
    command: RotationCommand,
    etcd: Option<&EvidenceFlags>,
) -> Result<Outcome<Rotation>, Failure> {
    let loaded = context.load()?;
    let config = &loaded.config;
    config.auth.supported()?;
    let sources = etcd.map(EvidenceFlags::evidence).transpose()?.flatten();
    let asker = Asker {
        site: Site::new(&loaded.path, Some(config)),
        again: &context.again(),
        unbounded: &context.typed_without(&[("--etcd-prefix-only", false)]),
    };
    let now = SystemClock.now();
    let mut outcome = reading(|on_progress| {
        let evidence = sources.as_ref().map(|sources| Asked {
            sources,
            on_progress,
        });
        rotation_report::gather(config, command, evidence, asker, now)
    })?;
    outcome.set_sources(&context.sources);
    Ok(outcome)
}
