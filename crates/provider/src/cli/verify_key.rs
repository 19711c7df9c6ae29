//! `verify-key`: may this node use the key, and does the key still have what this node needs?

use std::error::Error;

use clap::Args;
use kms_domain::transit::KeyProfile;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    connection::{self, Connection},
    diagnose::{self, Name, capabilities, configuration, key, skipped, state},
    report::{Check, Report, one_line},
    state::{StateError, Stored},
};

const TLS: Name = ("openbao.tls", "OpenBao TLS config");
const AUTH: Name = ("openbao.auth", "OpenBao JWT login");

/// Everything after the configuration, in this order.
const ONLINE: [Name; 11] = [
    TLS,
    AUTH,
    capabilities::CAPABILITIES,
    capabilities::CONFIG_READ,
    capabilities::RENEWAL,
    key::METADATA,
    key::PROFILE,
    key::DISABLE_UPSERT,
    key::KEY_ID,
    state::STATE,
    key::RESTRICTIONS,
];

/// Check login, policy, key and state of this node, without encrypting or decrypting
///
/// Reads only. Exit code 4 when a check fails.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let mut report = Report::new("verify-key", SystemClock.now());
        let loaded = context.load();
        for check in configuration::checks(&loaded) {
            report.push(check);
        }
        let config = match loaded {
            Ok(loaded) => loaded.config,
            Err(error) => {
                finish(&mut report, Vec::new());
                self.output.output.write(&report, context.out)?;
                return Err(error.into());
            }
        };
        report.identify(&config.fingerprint());
        let supported = config.auth.jwt_file().map(drop);
        let made = supported.map_or_else(|_| Vec::new(), |()| check(&config));
        finish(&mut report, made);
        self.output.output.write(&report, context.out)?;
        supported?;
        Ok(if report.failed() {
            Exit::CheckFailed
        } else {
            Exit::Success
        })
    }
}

/// Adds the checks that were made, and that those after them were not.
fn finish(report: &mut Report, made: Vec<Check>) {
    let rest = ONLINE.iter().skip(made.len()).copied().map(skipped);
    for check in made.into_iter().chain(rest) {
        report.push(check);
    }
}

/// In the order of [`ONLINE`], up to a failure that leaves nothing to ask.
fn check(config: &Config) -> Vec<Check> {
    let stored = config.state().load();
    let asked = connection::ask(config, async |openbao| {
        check_online(config, openbao, &stored).await
    });
    asked.unwrap_or_else(|error| {
        let (id, title) = TLS;
        let failed = Check::fail(id, title, one_line(&error))
            .impact("the provider cannot reach OpenBao")
            .remediation(
                "compare openbao.caCertFile with the CA that signed OpenBao's certificate",
            );
        vec![failed]
    })
}

async fn check_online(
    config: &Config,
    openbao: &Connection,
    stored: &Result<Stored, StateError>,
) -> Vec<Check> {
    let (
        Connection {
            session, transit, ..
        },
        pass,
    ) = (openbao, |(id, title): Name| Check::pass(id, title));
    let mut checks = vec![pass(TLS)];
    if let Err(failure) = session.token().await {
        checks.push(diagnose::not_logged_in(AUTH, failure));
        return checks;
    }
    checks.push(pass(AUTH));
    checks.extend(capabilities::checks(openbao, &config.key).await);
    let metadata = session
        .call(async |token| transit.key_metadata(&token).await)
        .await;
    checks.push(key::metadata(&metadata));
    let judged = metadata
        .ok()
        .map(|metadata| KeyProfile::check(&metadata, &config.key.key_name));
    checks.push(key::profile(judged.as_ref()));
    let upsert_disabled = session
        .call(async |token| transit.upsert_disabled(&token).await)
        .await;
    checks.push(key::disable_upsert(upsert_disabled, &config.key));

    let Some(Ok(profile)) = judged else {
        return checks;
    };
    let registry = match stored {
        Ok(stored) => stored.document.as_ref().map(|it| &**it.registry()),
        Err(_) => None,
    };
    checks.push(key::key_id(&profile, &config.scope, registry));
    checks.push(state::pair_or_none(
        &config.state_path,
        stored.as_ref().map_err(|error| error as &dyn Error),
        state::may_bootstrap(&profile, &config.scope, &config.key),
    ));
    if stored.is_ok() {
        checks.push(key::restrictions(&profile, registry));
    }
    checks
}
