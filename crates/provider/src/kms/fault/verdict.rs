//! What a failed Decrypt says about the object: whether anything is wrong with the data, the next
//! step, and what not to do.
//!
//! From Kubernetes 1.32 on an object that cannot be decrypted is shown as possibly corrupt, with our
//! message beside it, and 1.37 offers to delete it. Nearly always it is the key that is out of
//! reach, so every message says which of the two it is and ends with the same warning.

use kms_domain::{ciphertext::TransitCiphertext, transit::TransitVersion};
use openbao_client::failure::FailureClass;

use super::Fault;
use crate::watcher::discovery::DiscoveryFailed;

/// The end of every message of a failed Decrypt.
pub(super) const WARNING: &str = "do not delete the object";

/// Stands for the version that the ciphertext names, or for "its key version" when it names none.
const NEEDED: &str = "key version N";

/// Which of the three a failed Decrypt is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The data is not in question.
    NoDataLost,
    /// A version of the key is needed that is not there.
    KeyMissing,
    /// What is stored does not fit together: the one case where the object may be at fault.
    MayBeDamaged,
}

impl Fault {
    /// The verdict on the object, and what follows the sentence up to the warning.
    pub(super) fn verdict(self) -> (Verdict, &'static str) {
        use Verdict::{KeyMissing, MayBeDamaged, NoDataLost};
        match self {
            Self::Deadline => (
                NoDataLost,
                "OpenBao did not answer in time; no data is lost; mend OpenBao or the way to it",
            ),
            Self::Discovery(DiscoveryFailed::Unanswered) => (
                NoDataLost,
                "OpenBao could not be asked for new key versions; no data is lost; mend OpenBao or the way to it",
            ),
            Self::Discovery(DiscoveryFailed::Refused) => (
                NoDataLost,
                "the key in OpenBao or this node's state is not fit for use; no data is lost; /ready names the reason",
            ),
            Self::Discovery(DiscoveryFailed::Busy) => (
                NoDataLost,
                "too many calls ask for new key versions at once; no data is lost; it is tried again",
            ),
            Self::ShortLease => (
                NoDataLost,
                "OpenBao grants this node tokens that end too soon; no data is lost; raise token_ttl and token_max_ttl of its role",
            ),
            Self::JwtFile => (
                NoDataLost,
                "this node's JWT file cannot be read; no data is lost; see detail of auth.login in the provider's log",
            ),
            Self::JwtDates => (
                NoDataLost,
                "this node's JWT is expired or not valid yet by this node's clock; no data is lost; renew the JWT or correct the clock",
            ),
            Self::JwtClaims => (
                NoDataLost,
                "this node's JWT is malformed or has other claims than auth.jwt expects; no data is lost; issue the right JWT",
            ),
            Self::Stopping => (
                NoDataLost,
                "the provider of this node stops; no data is lost; it is tried again",
            ),
            Self::Login | Self::Transit(FailureClass::Unauthenticated) => (
                NoDataLost,
                "OpenBao does not accept this node's login; no data is lost; restore its credentials or role",
            ),
            Self::Concurrency => (
                NoDataLost,
                "too many calls at once; no data is lost; it is tried again",
            ),
            Self::EmptyPlaintext
            | Self::ResponseTooLarge
            | Self::NoActiveKey
            | Self::Unhealthy
            | Self::Panic(_)
            | Self::InvalidTransitAnswer => (
                NoDataLost,
                "a fault of the provider or of OpenBao; no data is lost; see the provider's log",
            ),
            Self::UnknownKeyId => (
                KeyMissing,
                "key version N of this key and configuration is not offered by OpenBao; restore the right OpenBao or configuration, triage finds which",
            ),
            Self::Withdrawn => (
                KeyMissing,
                "key version N was removed on this node; run restore-versions",
            ),
            Self::EmptyCiphertext
            | Self::RequestTooLarge
            | Self::InvalidAnnotations
            | Self::InvalidCiphertext => (
                MayBeDamaged,
                "another provider wrote the object, or it is damaged; then restore it from a backup of etcd",
            ),
            Self::MalformedKeyId => (
                MayBeDamaged,
                "another provider wrote the object, or it is damaged; check the provider's name, else restore the object from a backup of etcd",
            ),
            Self::Mismatch => (
                MayBeDamaged,
                "the stored parts do not belong together, so it is damaged or mixed up; restore it from a backup of etcd",
            ),
            Self::Transit(class) => transit_verdict(class),
        }
    }

    /// All that follows the sentence; `ciphertext` is the request's.
    pub(super) fn advice(self, ciphertext: &[u8]) -> String {
        let (verdict, text) = self.verdict();
        let named = || TransitCiphertext::parse(ciphertext).ok();
        let needed = match verdict {
            Verdict::KeyMissing => named().map(|ciphertext| ciphertext.version()),
            Verdict::NoDataLost | Verdict::MayBeDamaged => None,
        };
        let text = text.replace(NEEDED, &name(needed));
        format!("{text}; {WARNING}")
    }
}

fn transit_verdict(class: FailureClass) -> (Verdict, &'static str) {
    use Verdict::{KeyMissing, NoDataLost};
    match class {
        FailureClass::Timeout => Fault::Deadline.verdict(),
        FailureClass::Unauthenticated => Fault::Login.verdict(),
        FailureClass::PermissionDenied => (
            NoDataLost,
            "OpenBao's policy does not allow it; no data is lost; restore token or policy",
        ),
        FailureClass::NotFound | FailureClass::KeyMissing => (
            KeyMissing,
            "the key with key version N is not in this OpenBao; restore OpenBao; do not create a key of that name",
        ),
        FailureClass::VersionTooOld => (
            KeyMissing,
            "key version N is below min_decryption_version in OpenBao; lower it, or restore OpenBao",
        ),
        FailureClass::VersionTooNew => (
            KeyMissing,
            "key version N is newer than all that this OpenBao has; restore a newer backup of OpenBao",
        ),
        FailureClass::DecryptFailed => (
            KeyMissing,
            "key version N of this OpenBao did not encrypt this; restore the OpenBao that did; if only this object fails, restore it from a backup of etcd",
        ),
        FailureClass::InvalidRequest | FailureClass::VersionBelowMinimum => (
            KeyMissing,
            "OpenBao refuses to use key version N; this proves no damage; triage finds the cause",
        ),
        FailureClass::RateLimited => (
            NoDataLost,
            "OpenBao limits the rate of calls; no data is lost; it is tried again",
        ),
        FailureClass::Sealed => (NoDataLost, "OpenBao is sealed; no data is lost; unseal it"),
        FailureClass::Unavailable
        | FailureClass::TlsFailed
        | FailureClass::DnsFailed
        | FailureClass::ConnectionFailed
        | FailureClass::Unknown => (
            NoDataLost,
            "OpenBao is not reachable or does not work; no data is lost; mend OpenBao or the way to it",
        ),
        FailureClass::NotOpenBao => (
            NoDataLost,
            "the response is not from OpenBao; no data is lost; check openbao.address and the proxy in front of it",
        ),
        FailureClass::InvalidAnswer => (
            NoDataLost,
            "what answered is not OpenBao, or not a version in use; no data is lost; check openbao.address",
        ),
    }
}

fn name(needed: Option<TransitVersion>) -> String {
    needed.map_or_else(
        || "its key version".to_owned(),
        |version| format!("key version {version}"),
    )
}
