//! Causes of the findings of a [`Pair`]: unresolved `key_id`s, undecryptable DEKs and objects,
//! missing answers of OpenBao.

use kms_domain::recovery::resolve::{Resolution, ResolveError};
use kms_node::advice::{self, Cause};
use openbao_client::failure::FailureClass;

use super::verify_pair::{Pair, Row, Unanswered};

/// Which cause decides where there are several.
pub const ORDER: [&Cause; 13] = [
    &advice::key::LOST,
    &advice::key::RECREATED,
    &advice::versions::ROLLED_BACK,
    &advice::versions::LOST,
    &advice::key::UNEXPLAINED,
    &advice::configuration::IDENTITY_CHANGED,
    &advice::evidence::OBJECTS_DAMAGED,
    &advice::evidence::OTHER_IDENTITY,
    &advice::versions::BELOW_MINIMUM,
    &advice::evidence::OTHER_PROVIDER,
    &advice::openbao::NOT_OPENBAO,
    &advice::openbao::INCONCLUSIVE,
    &advice::evidence::UNUSABLE,
];

/// Findings of all rows, which decide between the causes of one row.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// No encrypted DEK of the pair decrypts.
    nothing_decrypts: bool,
    /// The configured names resolve the `key_id` of some objects.
    names_fit: bool,
}

impl Context {
    #[must_use]
    pub fn of(pair: &Pair) -> Self {
        let mut rows = pair.rows.iter();
        Self {
            nothing_decrypts: !rows.clone().any(|row| row.finding.seeds.proven > 0),
            names_fit: rows.any(Row::is_of_the_key),
        }
    }

    /// The context of single objects.
    #[must_use]
    pub fn with(nothing_decrypts: bool, names_fit: bool) -> Self {
        Self {
            nothing_decrypts,
            names_fit,
        }
    }

    /// Cause of a row; `None` for objects that decrypt.
    #[must_use]
    pub fn of_row(self, row: &Row) -> Option<&'static Cause> {
        let finding = &row.finding;
        let data = finding.data.unwrap_or_default();
        Some(match &finding.origin {
            Resolution::Live(_) if self.nothing_decrypts && row.is_of_another_key() => {
                &advice::key::RECREATED
            }
            Resolution::Live(_) if finding.seeds.failed > 0 || data.failed > 0 => {
                &advice::evidence::OBJECTS_DAMAGED
            }
            Resolution::Live(_) if finding.seeds.untried > 0 || data.untried > 0 => {
                &advice::openbao::INCONCLUSIVE
            }
            Resolution::Live(_) => return None,
            Resolution::Known(_) => &advice::openbao::INCONCLUSIVE,
            Resolution::Unresolved(gap) => self.of_gap(gap),
        })
    }

    /// Cause of an unresolved `key_id`.
    #[must_use]
    pub fn of_gap(self, gap: &ResolveError) -> &'static Cause {
        match gap {
            ResolveError::KeyId(_) | ResolveError::Annotations(_) | ResolveError::Foreign(_) => {
                &advice::evidence::OBJECTS_DAMAGED
            }
            // Names that fit the other objects must not be changed.
            ResolveError::IdentityMismatch { .. } if self.names_fit => {
                &advice::evidence::OTHER_IDENTITY
            }
            ResolveError::IdentityMismatch { .. } => &advice::configuration::IDENTITY_CHANGED,
            ResolveError::NewerThanLatest { .. } => &advice::versions::ROLLED_BACK,
            ResolveError::Trimmed { .. } => &advice::versions::LOST,
            ResolveError::Hidden { .. } => &advice::versions::BELOW_MINIMUM,
            ResolveError::CreationTimeMismatch { recorded: None, .. } => &advice::key::UNEXPLAINED,
            ResolveError::CreationTimeMismatch { .. } | ResolveError::Recreated { .. } => {
                &advice::key::RECREATED
            }
            ResolveError::NoKey { .. } => &advice::key::LOST,
            ResolveError::OtherProvider { .. } => &advice::evidence::OTHER_PROVIDER,
            ResolveError::Unknown { .. } => &advice::openbao::INCONCLUSIVE,
        }
    }
}

/// Cause of a missing answer of OpenBao.
#[must_use]
pub fn of_unanswered(unanswered: &Unanswered) -> &'static Cause {
    match unanswered {
        Unanswered::Metadata(failure) | Unanswered::Decrypt(failure) => {
            advice::openbao::of_call(failure)
        }
        Unanswered::Profile(_) => &advice::key::UNTESTED,
        Unanswered::Connection(_) => &advice::node::MISCONFIGURED,
        Unanswered::Item(failure) => match failure.class() {
            FailureClass::NotOpenBao => &advice::openbao::NOT_OPENBAO,
            _ => &advice::openbao::INCONCLUSIVE,
        },
    }
}
