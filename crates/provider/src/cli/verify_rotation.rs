//! `verify-rotation`: the same facts, and whether the objects in etcd have followed.

use clap::{ArgGroup, Args};
use kms_operator::rotation_report::RotationCommand;

use super::{
    Context, Exit, Failure, PageFlags,
    etcd_source::EvidenceFlags,
    openbao_flags::OpenBaoFlags,
    repeat::RepeatFlags,
    rotation_plan::{gather, is_finished},
};

/// Show how far this node, and with evidence every object, has followed a rotation
///
/// With a running etcd it counts the objects that are still under older versions: exit code 4 while
/// there are any, 5 if it could not be read or holds nothing of this provider. Snapshots show what
/// etcd held when they were saved, so that confidence stays limited; without either it is limited to
/// this node, with the exit codes of rotation-plan.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("one_page").args(["watch", "html"]))]
pub(super) struct Options {
    #[command(flatten)]
    repeat: RepeatFlags,
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    output: PageFlags,
    #[command(flatten)]
    etcd: EvidenceFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.output.require_new()?;
        self.openbao.apply(context);
        let etcd = Some(&self.etcd);
        let once = |context: &mut Context<'_>| gather(context, RotationCommand::Verify, etcd);
        let outcome = self
            .repeat
            .run(&self.output.output, context, once, is_finished)?;
        self.output.write_page(&outcome)
    }
}
