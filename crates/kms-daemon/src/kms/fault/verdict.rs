//! Consequence of a failed Decrypt for the object: state of the data, next step, and warning.
//!
//! Since Kubernetes 1.32, an undecryptable object is reported as possibly corrupt, with the
//! provider's message beside it; 1.37 offers to delete it. Usually only the key is unavailable.
//! Every message therefore names the affected part, data or key, and ends with the same warning.

use std::fmt;

use kms_domain::{ciphertext::TransitCiphertext, transit::TransitVersion};
use kms_node::advice::{key, openbao};
use openbao_client::failure::FailureClass;

use super::Fault;
use crate::watcher::discovery::DiscoveryFailed;

/// The end of every message of a failed Decrypt.
pub(super) const WARNING: &str = "do not delete the object";

/// Placeholder for the key version of the ciphertext; for an unparsable ciphertext, "its key
/// version".
const NEEDED: &str = "key version N";

const FIX: &str = "repair OpenBao or the connection to it";
const RETRIED: &str = "kube-apiserver tries again";

/// Verdict, cause and next step.
type Words = (Verdict, &'static str, &'static str);

/// Cause, statement on the data, and next step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text(&'static str, &'static str, &'static str);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(cause, data, next) = self;
        write!(f, "{cause}; {data}{next}")
    }
}

/// Conclusion from a failed Decrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The data is unaffected.
    NoDataLost,
    /// A required version of the key is unavailable.
    KeyMissing,
    /// The stored parts are inconsistent: the only case of possible damage to the object.
    MayBeDamaged,
}

impl Fault {
    /// The verdict on the object, and its text up to the warning.
    pub(super) fn verdict(self) -> (Verdict, Text) {
        use Verdict::{KeyMissing, MayBeDamaged, NoDataLost};
        let (verdict, what, next) = self.words();
        let text = match verdict {
            NoDataLost => Text(what, "no data is lost; ", next),
            KeyMissing | MayBeDamaged => Text(what, "", next),
        };
        (verdict, text)
    }

    /// The verdict, the cause, and the next step.
    fn words(self) -> Words {
        use Verdict::{KeyMissing, MayBeDamaged, NoDataLost};
        match self {
            Self::Deadline => (NoDataLost, openbao::UNREACHABLE.headline, FIX),
            Self::Discovery(DiscoveryFailed::Unanswered) => (
                NoDataLost,
                "OpenBao could not be asked for new key versions",
                FIX,
            ),
            Self::Discovery(DiscoveryFailed::Refused) => (
                NoDataLost,
                "the key in OpenBao or this node's state is not fit for use",
                "/ready names the reason",
            ),
            Self::Discovery(DiscoveryFailed::Busy) => (
                NoDataLost,
                "too many calls ask for new key versions at once",
                RETRIED,
            ),
            Self::ShortLease => (
                NoDataLost,
                "OpenBao grants this node tokens that end too soon",
                "raise token_ttl and token_max_ttl of its role",
            ),
            Self::Credential => (
                NoDataLost,
                "this node's secret, token or certificate for the login cannot be used",
                "see detail of auth.login in the provider's log",
            ),
            Self::CredentialDates => (
                NoDataLost,
                "this node's certificate or token for the login has ended or ends soon",
                "replace it or correct the clock",
            ),
            Self::JwtFile => (
                NoDataLost,
                "this node's JWT file cannot be read",
                "see detail of auth.login in the provider's log",
            ),
            Self::JwtDates => (
                NoDataLost,
                "this node's JWT is expired or not valid yet by this node's clock",
                "renew the JWT or correct the clock",
            ),
            Self::JwtClaims => (
                NoDataLost,
                "this node's JWT is malformed or has other claims than auth.jwt expects",
                "issue the right JWT",
            ),
            Self::OAuth2Credential => (
                NoDataLost,
                "a file of this node's OAuth client cannot be used",
                "see detail of auth.login in the provider's log",
            ),
            Self::OAuth2Unreachable => (
                NoDataLost,
                "the OAuth issuer of this node gives no answer",
                "restore the issuer or the connection to it",
            ),
            Self::OAuth2Refused => (
                NoDataLost,
                "the OAuth issuer refuses this node's client",
                "restore the client and its secret",
            ),
            Self::OAuth2Token => (
                NoDataLost,
                "the OAuth issuer gives this node no usable token",
                "see detail of auth.login in the provider's log",
            ),
            Self::SpiffeUnreachable => (
                NoDataLost,
                "the SPIFFE agent of this node issues no identity now",
                "restore the agent or its connection to its server",
            ),
            Self::SpiffeRefused => (
                NoDataLost,
                "the SPIFFE agent of this node refuses the provider its identity",
                "restore the registration entry",
            ),
            Self::SpiffeToken => (
                NoDataLost,
                "the SPIFFE agent of this node gives no usable JWT-SVID",
                "see detail of auth.login in the provider's log",
            ),
            Self::Token => (
                NoDataLost,
                "this node's PKCS#11 token cannot be used",
                "see detail of auth.login in the provider's log",
            ),
            Self::Stopping => (NoDataLost, "the provider of this node stops", RETRIED),
            Self::Login | Self::Transit(FailureClass::Unauthenticated) => (
                NoDataLost,
                openbao::LOGIN_REFUSED.headline,
                "restore the credentials or the role of this node",
            ),
            Self::Concurrency => (NoDataLost, "too many calls at once", RETRIED),
            Self::EmptyPlaintext
            | Self::ResponseTooLarge
            | Self::NoActiveKey
            | Self::Unhealthy
            | Self::Panic(_)
            | Self::InvalidTransitAnswer => (
                NoDataLost,
                "a fault of the provider or of OpenBao",
                "see the provider's log",
            ),
            Self::UnknownKeyId => (
                KeyMissing,
                "key version N of this key and configuration is not offered by OpenBao",
                "restore the right OpenBao or configuration, triage finds which",
            ),
            Self::Disabled => (
                KeyMissing,
                "key version N was removed on this node",
                "run restore-versions",
            ),
            Self::EmptyCiphertext
            | Self::RequestTooLarge
            | Self::InvalidAnnotations
            | Self::InvalidCiphertext => (
                MayBeDamaged,
                "another provider wrote the object, or it is damaged",
                "then restore it from a backup of etcd",
            ),
            Self::MalformedKeyId => (
                MayBeDamaged,
                "another provider wrote the object, or it is damaged",
                "check the provider's name, else restore the object from a backup of etcd",
            ),
            Self::Mismatch | Self::ForeignKeyId => (
                MayBeDamaged,
                "the stored parts do not belong together, so it is damaged or mixed up",
                "restore it from a backup of etcd",
            ),
            Self::Transit(class) => of_transit(class),
        }
    }

    /// The complete text after the public message; `ciphertext` is the one of the request.
    pub(super) fn advice(self, ciphertext: &[u8]) -> String {
        let (verdict, text) = self.verdict();
        let named = || TransitCiphertext::parse(ciphertext).ok();
        let needed = match verdict {
            Verdict::KeyMissing => named().map(|ciphertext| ciphertext.version()),
            Verdict::NoDataLost | Verdict::MayBeDamaged => None,
        };
        let text = text.to_string().replace(NEEDED, &name(needed));
        format!("{text}; {WARNING}")
    }
}

fn of_transit(class: FailureClass) -> Words {
    use Verdict::{KeyMissing, NoDataLost};
    match class {
        FailureClass::Timeout => Fault::Deadline.words(),
        FailureClass::Unauthenticated => Fault::Login.words(),
        FailureClass::PermissionDenied => (
            NoDataLost,
            openbao::POLICY_INSUFFICIENT.headline,
            "restore token or policy",
        ),
        FailureClass::NotFound | FailureClass::KeyMissing => (
            KeyMissing,
            key::LOST.headline,
            "restore the OpenBao that has key version N; do not create a key of that name",
        ),
        FailureClass::VersionTooOld => (
            KeyMissing,
            "key version N is below min_decryption_version in OpenBao",
            "lower it, or restore OpenBao",
        ),
        FailureClass::VersionTooNew => (
            KeyMissing,
            "key version N is newer than all that this OpenBao has",
            "restore a newer backup of OpenBao",
        ),
        FailureClass::DecryptFailed => (
            KeyMissing,
            "key version N of this OpenBao did not encrypt this",
            "restore the OpenBao that did; if only this object fails, restore it from a backup of etcd",
        ),
        FailureClass::InvalidRequest | FailureClass::VersionBelowMinimum => (
            KeyMissing,
            "OpenBao refuses to use key version N",
            "this proves no damage; triage finds the cause",
        ),
        FailureClass::RateLimited => (NoDataLost, "OpenBao limits the rate of calls", RETRIED),
        FailureClass::Sealed => (NoDataLost, openbao::SEALED.headline, "unseal it"),
        FailureClass::TlsFailed => (NoDataLost, openbao::UNTRUSTED.headline, FIX),
        FailureClass::DnsFailed | FailureClass::ConnectionFailed => {
            (NoDataLost, openbao::UNREACHABLE.headline, FIX)
        }
        FailureClass::Unavailable | FailureClass::Unknown => {
            (NoDataLost, "OpenBao is not available", FIX)
        }
        FailureClass::NotOpenBao => (
            NoDataLost,
            openbao::NOT_OPENBAO.headline,
            "check openbao.address and the proxy in front of it",
        ),
        FailureClass::InvalidAnswer => (
            NoDataLost,
            "the response is not from OpenBao, or from an unsupported version",
            "check openbao.address",
        ),
    }
}

fn name(needed: Option<TransitVersion>) -> String {
    needed.map_or_else(
        || "its key version".to_owned(),
        |version| format!("key version {version}"),
    )
}
