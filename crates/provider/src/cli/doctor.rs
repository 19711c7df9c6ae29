//! `doctor`: everything that this node needs to serve, from its configuration to a round trip.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::Loaded,
    report::{
        CheckResult,
        outcome::{Nothing, Outcome},
    },
};
use kms_operator::diagnose::{
    Check, capabilities, conclude, configuration,
    encryption_config::{self, check_file},
    examine,
    facts::Facts,
    hardening, key, login,
    node::{self, Node, become_provider},
    release, running, server, state,
};

use super::{
    Context, Exit, Failure, OutputFlag, etcd_source::EvidenceFlags, progress::reading, runtime,
};

const COMMAND: &str = "doctor";

/// The node first, then the connection to OpenBao, then the key: a cause comes before its
/// consequences.
const CHECKS: [Check; 30] = [
    configuration::LOAD,
    configuration::VALIDATE,
    node::USER,
    configuration::FILES,
    node::GROUP,
    node::ACCESS,
    encryption_config::ENCRYPTION_CONFIG,
    state::STATE,
    node::LOCK,
    node::DISK,
    hardening::HARDENING,
    server::TLS,
    server::REACHABLE,
    server::CLOCK,
    login::JWT,
    login::AUTH,
    login::FALLBACK,
    capabilities::CAPABILITIES,
    capabilities::CONFIG_READ,
    capabilities::RENEWAL,
    key::METADATA,
    key::PROFILE,
    key::DISABLE_UPSERT,
    key::KEY_ID,
    key::RESTRICTIONS,
    key::PROBE,
    key::ACTIVE,
    running::WHY,
    node::LIVE,
    node::LEGACY,
];

/// Find out why this node does not serve, or whether it could
///
/// Checks configuration, files, state, OpenBao, login, policy, key and the running provider, and
/// names what failed first. Changes nothing: it writes and removes a test file beside the state,
/// encrypts and decrypts random bytes with OpenBao, and asks the running provider for its Status and
/// its view (/why). Run it as root or as the provider's
/// user. Exit code 4 when a check fails, 3 when it is one of the configuration.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The file that kube-apiserver gets with --encryption-provider-config: does it lead to this
    /// provider, and who writes which resource?
    #[arg(long, value_name = "PATH")]
    encryption_config: Option<PathBuf>,
    #[command(flatten)]
    release: ReleaseFlags,
    #[command(flatten)]
    output: OutputFlag,
}

/// Another release of this provider.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Other release",
    group = ArgGroup::new("evidence")
        .args(["etcd_snapshot", "endpoints"])
        .multiple(true)
        .requires("for_version")
)]
struct ReleaseFlags {
    /// Output of `version --output json` of another release: does it read configuration, state and
    /// stored objects of this cluster?
    #[arg(long, value_name = "FILE")]
    for_version: Option<PathBuf>,
    #[command(flatten)]
    etcd: EvidenceFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let mut outcome = Outcome::new(COMMAND, SystemClock.now(), Nothing {});
        // Before the change of user: the files belong to root as a rule.
        let release = self.release.examined(context)?;
        let mut checks = examined(&mut outcome, self.encryption_config.as_deref(), context)?;
        checks.extend(release);
        conclude(&mut outcome, checks);
        self.output.show(&outcome, context)
    }
}

impl ReleaseFlags {
    /// Checks for the other release; none without one, or without a configuration, which other checks
    /// report.
    fn examined(&self, context: &Context<'_>) -> Result<Vec<CheckResult>, Failure> {
        let etcd = self.etcd.sources()?;
        let (Some(file), Ok(loaded)) = (&self.for_version, context.load()) else {
            return Ok(Vec::new());
        };
        Ok(reading(|on_progress| {
            release::examine(file, &loaded, &etcd, on_progress)
        }))
    }
}

/// The results of all checks. This thread may become the user of the provider.
pub(super) fn examined(
    outcome: &mut Outcome,
    encryption: Option<&Path>,
    context: &Context<'_>,
) -> Result<Vec<CheckResult>, Failure> {
    let mut facts = Facts::new(COMMAND, context.load());
    if facts.config().is_some()
        && let Ok(loaded) = &facts.loaded
    {
        outcome.identify(&loaded.config.fingerprint());
        let loaded = loaded.clone();
        // Before the change of user: the file belongs to root as a rule.
        facts.encryption = encryption.map(|path| check_file(path, &loaded.config));
        gather(&mut facts, &loaded, context)?;
    }
    // Most installations have no standby identity.
    let has_fallback = facts
        .config()
        .is_some_and(|config| config.auth.fallback.is_some());
    let checks = CHECKS.into_iter();
    let checks: Vec<_> = checks
        .filter(|check| has_fallback || check.id != login::FALLBACK.id)
        .collect();
    Ok(examine(&checks, &facts))
}

fn gather(facts: &mut Facts, loaded: &Loaded, context: &Context<'_>) -> Result<(), Failure> {
    let Loaded { config, path, .. } = loaded;
    // Before the runtime, whose threads take on what this one is.
    let became = become_provider(config);
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut node = Node::look(config, path, context.environment, became).await;
        facts.stored = Some(config.state().load());
        let active = facts.registry().map(|registry| registry.active().id());
        if active.is_some() && node.served().is_some() && active != node.served() {
            // A promotion may have come between the two questions; it does not come again at once.
            node.ask_again(config).await;
            facts.stored = Some(config.state().load());
        }
        facts.node = Some(node);
        facts.connection = Some(facts.ask_all(config).await);
    });
    // A name lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    Ok(())
}

#[cfg(test)]
mod tests {
    use kms_node::report::CheckName;

    use super::*;

    #[test]
    fn every_check_is_on_the_page_and_comes_after_what_it_needs() {
        let page = include_str!("../../../../docs/operate/doctor.md");
        let mut earlier = Vec::new();
        for Check { id, needs, .. } in CHECKS {
            assert!(page.contains(&format!("\n| `{id}` ")), "{id}");
            for need in needs {
                let need = need.split('/').next().unwrap();
                assert!(earlier.contains(&need), "{id} needs {need}");
            }
            earlier.push(id);
        }
        for CheckName(id, _) in release::CHECKS {
            assert!(page.contains(&format!("\n| `{id}` ")), "{id}");
        }
    }
}
