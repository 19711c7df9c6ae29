//! `policy`: the least permissions of the provider in OpenBao.

use clap::{ArgAction, Args, Subcommand};

use super::{Context, Exit, Failure};
use kms_install::policy::policy;

/// Print policies
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    system: System,
}

#[derive(Debug, Subcommand)]
enum System {
    /// Print the OpenBao policy for the configured key, as HCL
    Openbao {
        /// Allow the token to be renewed
        #[arg(
            long,
            action = ArgAction::Set,
            default_value_t = true,
            default_missing_value = "true",
            num_args = 0..=1,
            require_equals = true,
            value_name = "BOOL"
        )]
        include_token_renewal: bool,
    },
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let System::Openbao {
            include_token_renewal,
        } = self.system;
        let config = context.load()?.config;
        let namespace = config.scope.openbao_namespace.as_ref();
        let place = namespace.map_or("the root namespace".to_owned(), |name| {
            format!("namespace {name}")
        });
        let policy = policy(&config, include_token_renewal, &place)?;
        context.out.write_all(policy.as_bytes())?;
        Ok(Exit::Success)
    }
}
