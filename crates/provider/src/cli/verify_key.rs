//! `verify-key`: whether this node may use the key, and the key has the versions that it needs.

use clap::Args;
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::Config,
    connection,
    report::outcome::{Nothing, Outcome},
};
use kms_operator::diagnose::{
    Check, capabilities, conclude, configuration, examine, facts::Facts, key, login, server, state,
};

use super::{Context, Exit, Failure, OutputFlag, openbao_flags::OpenBaoFlags};

const COMMAND: &str = "verify-key";

const CHECKS: [Check; 13] = [
    configuration::LOAD,
    configuration::VALIDATE,
    server::TLS,
    login::AUTH_ALONE,
    capabilities::CAPABILITIES,
    capabilities::CONFIG_READ,
    capabilities::RENEWAL,
    key::METADATA,
    key::PROFILE,
    key::DISABLE_UPSERT,
    key::KEY_ID,
    state::PAIR,
    key::RESTRICTIONS,
];

/// Check login, policy, key and state of this node, without encrypting or decrypting
///
/// Reads only. Exit code 4 when a check fails, 3 when the configuration is not valid.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.openbao.apply(context);
        let mut outcome = Outcome::new(COMMAND, SystemClock.now(), Nothing {});
        let mut facts = Facts::new(COMMAND, context.load());
        if let Some(config) = facts.config().cloned() {
            outcome.identify(&config.fingerprint());
            gather(&mut facts, &config);
        }
        conclude(&mut outcome, examine(&CHECKS, &facts));
        outcome.set_sources(&context.sources);
        self.output.show(&outcome, context)
    }
}

fn gather(facts: &mut Facts, config: &Config) {
    facts.stored = Some(config.state().load());
    let asked = connection::ask(config, async |openbao| {
        facts.ask_openbao(config, openbao).await;
    });
    facts.connection = Some(asked);
}
