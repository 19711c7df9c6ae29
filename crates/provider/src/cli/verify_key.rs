//! `verify-key`: may this node use the key, and does the key still have what this node needs?

use clap::Args;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    connection,
    diagnose::{
        Question, capabilities, configuration, examine, facts::Facts, key, login, server, state,
    },
    report::Report,
};

const QUESTIONS: [Question; 13] = [
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
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let mut report = Report::new("verify-key", SystemClock.now());
        let mut facts = Facts::new(context.load());
        if let Some(config) = facts.config().cloned() {
            report.identify(&config.fingerprint());
            gather(&mut facts, &config);
        }
        examine(&QUESTIONS, &facts, &mut report);
        self.output.output.write(&report, context.out)?;
        Ok(report.exit())
    }
}

fn gather(facts: &mut Facts, config: &Config) {
    facts.stored = Some(config.state().load());
    let asked = connection::ask(config, async |openbao| {
        facts.ask_openbao(config, openbao).await;
    });
    facts.connection = Some(asked);
}
