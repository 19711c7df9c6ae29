//! The order of the questions, and what each failure means.

use std::io;

use kms_domain::{
    registry::anchor::Rollback,
    transit::{Finding, ProfileRefused},
};
use openbao_client::failure::FailureClass;

use super::{
    evidence::{self, lost_to_state},
    service,
    verdict::Verdict,
};
use crate::{
    auth::CallFailure,
    config::LoadError,
    diagnose::{
        Question, capabilities, configuration, facts::Facts, key, login, node, running, server,
    },
    report::Check,
    state::StateError,
    watcher::deep::DeepError,
};

/// One question on the way.
pub(super) struct Step {
    pub(super) question: Question,
    /// What its failure means; `None` where no incident turns on it, or another question tells more.
    /// Such a failure is only to be looked at.
    pub(super) verdict: fn(&Facts, &Check) -> Option<Verdict>,
}

/// What is found out before the questions after it can be asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gather {
    /// User, files, lock and socket; the state.
    Node,
    /// The JWT.
    Credential,
    /// What OpenBao tells everybody.
    Server,
    /// What it tells whoever has logged in.
    Key,
    /// Trial decryptions of what is stored.
    Etcd,
    /// Round trips through OpenBao.
    Trials,
    /// Socket and state once more.
    Provider,
    /// A round trip through the socket.
    RoundTrip,
}

/// What needs no more than the configuration file.
pub(super) const FIRST: [Step; 2] = [
    Step {
        question: configuration::LOAD,
        verdict: |facts, _| Some(unloaded(facts)),
    },
    Step {
        question: configuration::VALIDATE,
        verdict: |_, _| Some(Verdict::ConfigInvalid),
    },
];

/// The node, its credential, OpenBao, the key, what needs the key, the state, the provider.
pub(super) const WAY: [(Gather, &[Step]); 8] = [
    (
        Gather::Node,
        &[
            Step {
                question: node::USER,
                verdict: |_, check| {
                    Some(match check.cause() {
                        Some("other_user") => Verdict::NotPermitted,
                        _ => Verdict::NodeMisconfigured,
                    })
                },
            },
            Step {
                question: evidence::NAMES,
                verdict: by_code,
            },
            Step {
                question: service::PROCESS,
                verdict: |_, _| None,
            },
            Step {
                question: service::SOCKET,
                verdict: |_, _| None,
            },
            Step {
                question: configuration::FILES,
                verdict: |_, check| {
                    Some(match check.cause() {
                        Some("auth.jwt.jwtFile") => Verdict::AuthMaterialUnusable,
                        _ => Verdict::NodeMisconfigured,
                    })
                },
            },
            Step {
                question: node::GROUP,
                verdict: |_, _| Some(Verdict::NodeMisconfigured),
            },
            Step {
                question: node::LOCK,
                verdict: |_, _| Some(Verdict::StateLocked),
            },
        ],
    ),
    (
        Gather::Credential,
        &[Step {
            question: login::JWT,
            verdict: |_, _| Some(Verdict::AuthMaterialUnusable),
        }],
    ),
    (
        Gather::Server,
        &[
            Step {
                question: server::TLS,
                verdict: |_, _| Some(Verdict::OpenbaoUntrusted),
            },
            Step {
                question: server::REACHABLE,
                verdict: |_, check| {
                    Some(match check.cause() {
                        Some("not_initialized") => Verdict::OpenbaoUninitialized,
                        Some("sealed") => Verdict::OpenbaoSealed,
                        Some("not_openbao") => Verdict::NotOpenbao,
                        Some("tls_failed") => Verdict::OpenbaoUntrusted,
                        _ => Verdict::OpenbaoUnreachable,
                    })
                },
            },
            Step {
                question: server::LEADER,
                verdict: |_, _| Some(Verdict::OpenbaoNoLeader),
            },
        ],
    ),
    (
        Gather::Key,
        &[
            // A clock that is wrong matters if it is in the way of the login.
            Step {
                question: server::CLOCK,
                verdict: |facts, _| match facts.login {
                    Some(Ok(())) => None,
                    _ => Some(Verdict::ClockWrong),
                },
            },
            Step {
                question: login::AUTH,
                verdict: |facts, _| {
                    let failure = facts.login.as_ref()?.as_ref().err()?;
                    let call = CallFailure::Auth(failure.clone());
                    Some(of_path(&call).unwrap_or(Verdict::LoginRefused))
                },
            },
            // What is too much is no cause, and what could not be asked shows when it is used.
            Step {
                question: capabilities::CAPABILITIES,
                verdict: |_, check| {
                    check
                        .has_detail("missing")
                        .then_some(Verdict::PolicyInsufficient)
                },
            },
            Step {
                question: key::METADATA,
                verdict: |facts, _| {
                    let failure = facts.metadata.as_ref()?.as_ref().err()?;
                    Some(of_call(failure))
                },
            },
            Step {
                question: key::PROFILE,
                verdict: |facts, _| Some(of_profile(facts.profile.as_ref()?.as_ref().err()?)),
            },
        ],
    ),
    (
        Gather::Etcd,
        &[
            Step {
                question: evidence::ETCD,
                verdict: by_code,
            },
            // What etcd holds tells more than an older record of what it needed.
            Step {
                question: evidence::RECORD,
                verdict: by_code,
            },
            // A limit for encryption must not hide a loss that stored objects show.
            Step {
                question: key::RESTRICTIONS,
                verdict: |facts, _| {
                    Some(lost_to_state(facts).unwrap_or(Verdict::EncryptionBlocked))
                },
            },
        ],
    ),
    (
        Gather::Trials,
        &[
            Step {
                question: key::DISABLE_UPSERT,
                verdict: |facts, _| {
                    Some(match facts.upsert_disabled.as_ref()? {
                        Ok(_) => Verdict::KeyUnusable,
                        Err(failure) => of_call(failure),
                    })
                },
            },
            Step {
                question: key::PROBE,
                verdict: |facts, _| of_trial(facts.probe.as_ref()?),
            },
            Step {
                question: key::ACTIVE,
                verdict: |facts, _| of_trial(facts.active_probe.as_ref()?),
            },
            Step {
                question: service::KEPT,
                verdict: |facts, check| Some(of_state(facts, check)),
            },
        ],
    ),
    (
        Gather::Provider,
        &[
            Step {
                question: service::RUNNING,
                verdict: |_, _| Some(Verdict::NotRunning),
            },
            // It names the cause that SERVING sees from outside.
            Step {
                question: running::WHY,
                verdict: |_, _| Some(Verdict::ProviderUnhealthy),
            },
            Step {
                question: service::SERVING,
                verdict: |facts, check| {
                    Some(match check.cause() {
                        Some("other_key") => Verdict::StateExchanged,
                        Some("unhealthy") => Verdict::ProviderUnhealthy,
                        _ => by_code(facts, check)?,
                    })
                },
            },
        ],
    ),
    (
        Gather::RoundTrip,
        &[Step {
            question: service::ROUND_TRIP,
            verdict: |_, _| Some(Verdict::ProviderUnhealthy),
        }],
    ),
];

fn by_code(_: &Facts, check: &Check) -> Option<Verdict> {
    Some(
        check
            .cause()
            .and_then(Verdict::named)
            .unwrap_or(Verdict::NotEstablished),
    )
}

fn unloaded(facts: &Facts) -> Verdict {
    match &facts.loaded {
        Err(LoadError::Unreadable { source, .. }) => match source.kind() {
            io::ErrorKind::PermissionDenied => Verdict::NotPermitted,
            _ => Verdict::ConfigLost,
        },
        _ => Verdict::ConfigInvalid,
    }
}

/// Of a call that did not come through: `None` if OpenBao did its part.
fn of_path(failure: &CallFailure) -> Option<Verdict> {
    Some(match failure.class()? {
        FailureClass::Sealed => Verdict::OpenbaoSealed,
        FailureClass::TlsFailed => Verdict::OpenbaoUntrusted,
        FailureClass::NotOpenBao => Verdict::NotOpenbao,
        FailureClass::RateLimited
        | FailureClass::Unavailable
        | FailureClass::DnsFailed
        | FailureClass::ConnectionFailed
        | FailureClass::Timeout => Verdict::OpenbaoUnreachable,
        _ => return None,
    })
}

fn of_call(failure: &CallFailure) -> Verdict {
    if let Some(verdict) = of_path(failure) {
        return verdict;
    }
    match failure.class() {
        None | Some(FailureClass::Unauthenticated) => Verdict::LoginRefused,
        Some(FailureClass::NotFound | FailureClass::KeyMissing) => Verdict::KeyLost,
        Some(FailureClass::PermissionDenied) => Verdict::PolicyInsufficient,
        Some(FailureClass::VersionTooOld) => Verdict::VersionsHidden,
        Some(FailureClass::VersionBelowMinimum) => Verdict::EncryptionBlocked,
        Some(_) => Verdict::NotEstablished,
    }
}

fn of_trial<T>(outcome: &Result<T, DeepError>) -> Option<Verdict> {
    let error = outcome.as_ref().err()?;
    Some(error.call().map_or(Verdict::KeyUnusable, of_call))
}

fn of_profile(refused: &ProfileRefused) -> Verdict {
    match refused {
        ProfileRefused::AllTrimmed { .. } => Verdict::VersionsLost,
        ProfileRefused::Findings(findings) => match findings[..] {
            [Finding::MinDecryptionVersion { .. }] => Verdict::VersionsHidden,
            [Finding::MinEncryptionVersion { .. }] => Verdict::EncryptionBlocked,
            _ => Verdict::KeyUnusable,
        },
        _ => Verdict::KeyUnusable,
    }
}

fn of_state(facts: &Facts, check: &Check) -> Verdict {
    match (facts.stored.as_ref(), check.cause()) {
        (Some(Err(StateError::RolledBack { problem, .. })), _) => match problem {
            Rollback::DocumentLost { .. } => Verdict::StateLost,
            _ => Verdict::StateRolledBack,
        },
        (Some(Err(StateError::OtherConfiguration { .. })), _) => Verdict::IdentityChanged,
        (Some(Err(StateError::OtherRelease { .. })), _) => Verdict::StateOtherRelease,
        (_, Some("absent" | "absent_in_use")) => Verdict::StateLost,
        (_, Some("checkpoint_missing")) => Verdict::CheckpointLost,
        (_, Some("corrupt_state" | "corrupt_checkpoint")) => Verdict::StateCorrupt,
        _ => Verdict::NodeMisconfigured,
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
        let steps = WAY.iter().flat_map(|(_, steps)| steps.iter());
        let ids: Vec<_> = FIRST.iter().chain(steps).map(|it| it.question.id).collect();
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
