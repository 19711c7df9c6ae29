//! The order of the checks, and the cause of each failure.

use super::{
    evidence::{self, lost_to_state},
    service,
};
use crate::diagnose::{
    Check, capabilities, configuration, encryption_config, facts::Facts, key, login, node, running,
    server,
};
use kms_domain::{
    registry::checkpoint::Rollback,
    transit::{Finding, ProfileRefused},
};
use kms_node::{
    advice::{self, Cause},
    config::{JwtSource, Method},
    report::CheckResult,
    state::StateError,
    transit_key::round_trip::DeepError,
};

/// One check of the sequence.
pub(super) struct Step {
    pub(super) check: Check,
    /// Cause of its failure; `None` where it decides no incident, or where a later check is more exact.
    /// Such a failure becomes a warning.
    pub(super) cause: fn(&Facts, &CheckResult) -> Option<&'static Cause>,
}

/// Facts to gather before the checks after it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gather {
    /// User, files, lock and socket; the state.
    Node,
    /// The JWT.
    Credential,
    /// Responses of OpenBao without a token.
    Server,
    /// Login, and responses of OpenBao with a token.
    Key,
    /// Trial decryptions of stored DEKs.
    Etcd,
    /// Round trips through OpenBao.
    Trials,
    /// Socket and state once more.
    Provider,
    /// A round trip through the socket.
    RoundTrip,
}

/// Checks of the configuration file alone.
pub(super) const FIRST: [Step; 2] = [
    Step {
        check: configuration::LOAD,
        cause: |facts, _| Some(unloaded(facts)),
    },
    Step {
        check: configuration::VALIDATE,
        cause: |_, _| Some(&advice::configuration::INVALID),
    },
];

/// Node, credential, OpenBao, key, stored data, state, provider.
pub(super) const SEQUENCE: [(Gather, &[Step]); 8] = [
    (
        Gather::Node,
        &[
            Step {
                check: node::USER,
                cause: |_, check| {
                    Some(match check.cause() {
                        Some("other_user") => &advice::node::NOT_PERMITTED,
                        _ => &advice::node::MISCONFIGURED,
                    })
                },
            },
            Step {
                check: evidence::NAMES,
                cause: by_code,
            },
            Step {
                check: service::PROCESS,
                cause: |_, _| None,
            },
            Step {
                check: service::SOCKET,
                cause: |_, _| None,
            },
            Step {
                check: configuration::FILES,
                cause: |_, check| {
                    Some(match check.cause() {
                        Some("auth.jwt.jwtFile") => &advice::login::JWT_UNUSABLE,
                        Some(
                            "auth.jwt.oauth2.clientSecretFile" | "auth.jwt.oauth2.privateKeyFile",
                        ) => &advice::oauth2::SECRET_UNUSABLE,
                        Some("auth.jwt.oauth2.caCertFile") => &advice::oauth2::CA_UNUSABLE,
                        Some("auth.jwt.spiffe.workloadAPISocket") => {
                            &advice::spiffe::NOT_WORKLOAD_API
                        }
                        _ => &advice::node::MISCONFIGURED,
                    })
                },
            },
            Step {
                check: node::GROUP,
                cause: |_, _| Some(&advice::node::MISCONFIGURED),
            },
            Step {
                check: node::LOCK,
                cause: |_, _| Some(&advice::node::STATE_LOCKED),
            },
        ],
    ),
    (
        Gather::Credential,
        &[Step {
            check: login::JWT,
            cause: |facts, check| {
                let auth = &facts.config()?.auth;
                let code = check.advice()?.code;
                match &auth.method {
                    // The standby identity decides at the login.
                    _ if auth.fallback.is_some() => None,
                    Method::Jwt(jwt) if matches!(jwt.source, JwtSource::File(_)) => {
                        Some(&advice::login::JWT_UNUSABLE)
                    }
                    _ => Cause::named(code),
                }
            },
        }],
    ),
    (
        Gather::Server,
        &[
            Step {
                check: server::TLS,
                cause: |_, _| Some(&advice::openbao::UNTRUSTED),
            },
            Step {
                check: server::REACHABLE,
                cause: |_, check| {
                    Some(match check.cause() {
                        Some("not_initialized") => &advice::openbao::UNINITIALIZED,
                        Some("sealed") => &advice::openbao::SEALED,
                        Some("not_openbao") => &advice::openbao::NOT_OPENBAO,
                        Some("tls_failed") => Cause::named(check.advice()?.code)?,
                        _ => &advice::openbao::UNREACHABLE,
                    })
                },
            },
            Step {
                check: server::LEADER,
                cause: |_, _| Some(&advice::openbao::NO_LEADER),
            },
        ],
    ),
    (
        Gather::Key,
        &[
            // A clock that is wrong matters if it is in the way of the login.
            Step {
                check: server::CLOCK,
                cause: |facts, _| match facts.login {
                    Some(Ok(())) => None,
                    _ => Some(&advice::node::CLOCK_WRONG),
                },
            },
            Step {
                check: login::AUTH,
                cause: |facts, _| {
                    let failure = facts.login.as_ref()?.as_ref().err()?;
                    Some(facts.of_login(failure))
                },
            },
            // Excess permissions are no cause; an unanswered query shows at the first use.
            Step {
                check: capabilities::CAPABILITIES,
                cause: |_, check| {
                    check
                        .has_detail("missing")
                        .then_some(&advice::openbao::POLICY_INSUFFICIENT)
                },
            },
            Step {
                check: key::METADATA,
                cause: |facts, _| {
                    let failure = facts.metadata.as_ref()?.as_ref().err()?;
                    Some(facts.of_call(failure))
                },
            },
            Step {
                check: key::PROFILE,
                cause: |facts, _| Some(of_profile(facts.profile.as_ref()?.as_ref().err()?)),
            },
        ],
    ),
    (
        Gather::Etcd,
        &[
            Step {
                check: evidence::ETCD,
                cause: by_code,
            },
            // The stored data is more exact than an older record.
            Step {
                check: evidence::RECORD,
                cause: by_code,
            },
            // A limit for encryption must not hide a loss that stored objects show.
            Step {
                check: key::RESTRICTIONS,
                cause: |facts, _| {
                    Some(lost_to_state(facts).unwrap_or(&advice::versions::ENCRYPTION_BLOCKED))
                },
            },
        ],
    ),
    (
        Gather::Trials,
        &[
            Step {
                check: key::DISABLE_UPSERT,
                cause: |facts, _| {
                    Some(match facts.upsert_disabled.as_ref()? {
                        Ok(_) => &advice::key::UNUSABLE,
                        Err(failure) => facts.of_call(failure),
                    })
                },
            },
            Step {
                check: key::PROBE,
                cause: |facts, _| of_trial(facts.probe.as_ref()?),
            },
            Step {
                check: key::ACTIVE,
                cause: |facts, _| of_trial(facts.active_probe.as_ref()?),
            },
            Step {
                check: service::KEPT,
                cause: |facts, check| Some(of_state(facts, check)),
            },
        ],
    ),
    (
        Gather::Provider,
        &[
            // A stopped provider may not start with a full disk, and a running one cannot save.
            Step {
                check: node::DISK,
                cause: by_code,
            },
            Step {
                check: service::RUNNING,
                cause: |_, _| Some(&advice::node::NOT_RUNNING),
            },
            // It names the cause that SERVING sees from outside.
            Step {
                check: running::WHY,
                cause: |_, check| {
                    Some(match check.cause() {
                        Some("socket") => &advice::node::SOCKET_UNUSABLE,
                        Some("legacy_socket") => &advice::node::LEGACY_SOCKET_UNUSABLE,
                        Some("fallback") => &advice::login::FALLBACK_IN_USE,
                        _ => &advice::node::UNHEALTHY,
                    })
                },
            },
            Step {
                check: service::SERVING,
                cause: |facts, check| {
                    Some(match check.cause() {
                        Some("other_key") => &advice::state::REPLACED,
                        Some("unhealthy") => &advice::node::UNHEALTHY,
                        _ => by_code(facts, check)?,
                    })
                },
            },
            Step {
                check: node::LEGACY,
                cause: |_, check| Cause::named(check.advice()?.code),
            },
            // kube-apiserver may be another user than the one of this command.
            Step {
                check: node::ACCESS,
                cause: by_code,
            },
        ],
    ),
    (
        Gather::RoundTrip,
        &[
            Step {
                check: service::ROUND_TRIP,
                cause: |_, _| Some(&advice::node::UNHEALTHY),
            },
            // The provider serves; does kube-apiserver call it?
            Step {
                check: encryption_config::ENCRYPTION_CONFIG,
                cause: |_, check| Cause::named(check.advice()?.code),
            },
        ],
    ),
];

fn by_code(_: &Facts, check: &CheckResult) -> Option<&'static Cause> {
    Some(
        check
            .cause()
            .and_then(Cause::named)
            .unwrap_or(&advice::openbao::INCONCLUSIVE),
    )
}

fn unloaded(facts: &Facts) -> &'static Cause {
    let error = facts.loaded.as_ref().err();
    error.map_or(&advice::configuration::INVALID, configuration::unloaded)
}

fn of_trial<T>(outcome: &Result<T, DeepError>) -> Option<&'static Cause> {
    let error = outcome.as_ref().err()?;
    Some(
        error
            .call()
            .map_or(&advice::key::UNUSABLE, advice::openbao::of_call),
    )
}

/// Of a key whose settings are unsafe.
pub(crate) fn of_profile(refused: &ProfileRefused) -> &'static Cause {
    match refused {
        ProfileRefused::AllTrimmed { .. } => &advice::versions::LOST,
        ProfileRefused::Findings(findings) => match findings[..] {
            [Finding::MinDecryptionVersion { .. }] => &advice::versions::BELOW_MINIMUM,
            [Finding::MinEncryptionVersion { .. }] => &advice::versions::ENCRYPTION_BLOCKED,
            _ => &advice::key::UNUSABLE,
        },
        _ => &advice::key::UNUSABLE,
    }
}

fn of_state(facts: &Facts, check: &CheckResult) -> &'static Cause {
    match (facts.stored.as_ref(), check.cause()) {
        (Some(Err(StateError::RolledBack { problem, .. })), _) => match problem {
            Rollback::DocumentLost { .. } => &advice::state::LOST,
            _ => &advice::state::ROLLED_BACK,
        },
        (Some(Err(StateError::OtherConfiguration { .. })), _) => {
            &advice::configuration::IDENTITY_CHANGED
        }
        (Some(Err(StateError::OtherRelease { .. })), _) => &advice::state::OTHER_RELEASE,
        (Some(Err(StateError::OfPreview { .. })), _) => &advice::state::OF_PREVIEW,
        (_, Some("absent" | "absent_in_use")) => &advice::state::LOST,
        (_, Some("checkpoint_missing")) => &advice::state::CHECKPOINT_LOST,
        (_, Some("corrupt_state" | "corrupt_checkpoint")) => &advice::state::CORRUPT,
        _ => &advice::node::MISCONFIGURED,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_is_on_the_page_in_its_order_and_asked_once() {
        let page = include_str!("../../../../docs/operate/triage.md");
        let (_, order) = page.split_once("\n## The order\n").unwrap();
        let (order, _) = order.split_once("\n## ").unwrap();
        let steps = SEQUENCE.iter().flat_map(|(_, steps)| steps.iter());
        let ids: Vec<_> = FIRST.iter().chain(steps).map(|it| it.check.id).collect();
        let told: Vec<_> = order
            .lines()
            .filter_map(|line| line.trim_end_matches(" |").rsplit_once(" | "))
            .flat_map(|(_, checks)| checks.split(", "))
            .filter_map(|check| check.strip_prefix('`')?.strip_suffix('`'))
            .collect();
        assert_eq!(told, ids);
        let once: BTreeSet<_> = ids.iter().collect();
        assert_eq!(once.len(), ids.len());
    }
}
