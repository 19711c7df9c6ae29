//! The words for what is broken, each with what it means for the data.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::exit::Exit;

/// What becomes of the data if nothing but this is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataImpact {
    /// Nothing is lost by it.
    NoneLost,
    /// Nothing is lost yet, and a wrong step could lose it.
    AtRisk,
    /// It can be read again only with a backup.
    LostWithoutBackup,
    /// What was looked at does not tell.
    Unknown,
}

/// The first thing that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is.
    Healthy,
    /// The configuration file is gone.
    ConfigLost,
    /// The configuration file cannot be used.
    ConfigInvalid,
    /// The configuration names another key or cluster than the one that data was encrypted for.
    IdentityChanged,
    /// Files, directories, their modes or owners, or a group.
    NodeMisconfigured,
    /// Another process has locked the state.
    StateLocked,
    /// The JWT.
    AuthMaterialUnusable,
    /// No answer from OpenBao.
    OpenbaoUnreachable,
    /// Software other than OpenBao answered.
    NotOpenbao,
    /// OpenBao does not prove to be the configured one.
    OpenbaoUntrusted,
    /// OpenBao has no storage.
    OpenbaoUninitialized,
    /// OpenBao is sealed.
    OpenbaoSealed,
    /// The cluster of OpenBao has no active server.
    OpenbaoNoLeader,
    /// The clocks differ too much for a login.
    ClockWrong,
    /// OpenBao does not let this node in.
    LoginRefused,
    /// The token may not do what the provider needs.
    PolicyInsufficient,
    /// There is no such key.
    KeyLost,
    /// The key is another one under the same name.
    KeyRecreated,
    /// OpenBao is from before a rotation.
    OpenbaoRolledBack,
    /// Versions that are needed were deleted.
    VersionsLost,
    /// Versions that are needed are there, and a limit keeps them from decrypting.
    VersionsHidden,
    /// The key or its mount is set up in a way in which it is not used.
    KeyUnusable,
    /// A limit keeps the active version from encrypting.
    EncryptionBlocked,
    /// Values in etcd were changed or are damaged.
    ObjectsDamaged,
    /// There is no state though there was one.
    StateLost,
    /// State or checkpoint is not valid.
    StateCorrupt,
    /// A newer release wrote state or checkpoint.
    StateOtherRelease,
    /// The state is an older one, or of another history.
    StateRolledBack,
    /// Nothing shows that the state is the newest.
    CheckpointLost,
    /// The state on disk is not that of the running provider.
    StateExchanged,
    /// Everything is there, and the provider is not running.
    NotRunning,
    /// The provider runs, and its socket is of no use.
    SocketUnusable,
    /// The provider answers, and does not do its work.
    ProviderUnhealthy,
    /// This user may not look at what must be looked at.
    NotPermitted,
    /// etcd data or record that was given says nothing about this key.
    EvidenceUnusable,
    /// A question got no answer that would tell.
    NotEstablished,
}

impl DataImpact {
    /// The word in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoneLost => "none_lost",
            Self::AtRisk => "at_risk",
            Self::LostWithoutBackup => "lost_without_backup",
            Self::Unknown => "unknown",
        }
    }
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 36] = [
        Self::Healthy,
        Self::ConfigLost,
        Self::ConfigInvalid,
        Self::IdentityChanged,
        Self::NodeMisconfigured,
        Self::StateLocked,
        Self::AuthMaterialUnusable,
        Self::OpenbaoUnreachable,
        Self::NotOpenbao,
        Self::OpenbaoUntrusted,
        Self::OpenbaoUninitialized,
        Self::OpenbaoSealed,
        Self::OpenbaoNoLeader,
        Self::ClockWrong,
        Self::LoginRefused,
        Self::PolicyInsufficient,
        Self::KeyLost,
        Self::KeyRecreated,
        Self::OpenbaoRolledBack,
        Self::VersionsLost,
        Self::VersionsHidden,
        Self::KeyUnusable,
        Self::EncryptionBlocked,
        Self::ObjectsDamaged,
        Self::StateLost,
        Self::StateCorrupt,
        Self::StateOtherRelease,
        Self::StateRolledBack,
        Self::CheckpointLost,
        Self::StateExchanged,
        Self::NotRunning,
        Self::SocketUnusable,
        Self::ProviderUnhealthy,
        Self::NotPermitted,
        Self::EvidenceUnusable,
        Self::NotEstablished,
    ];

    /// The word in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::ConfigLost => "config_lost",
            Self::ConfigInvalid => "config_invalid",
            Self::IdentityChanged => "identity_changed",
            Self::NodeMisconfigured => "node_misconfigured",
            Self::StateLocked => "state_locked",
            Self::AuthMaterialUnusable => "auth_material_unusable",
            Self::OpenbaoUnreachable => "openbao_unreachable",
            Self::NotOpenbao => "not_openbao",
            Self::OpenbaoUntrusted => "openbao_untrusted",
            Self::OpenbaoUninitialized => "openbao_uninitialized",
            Self::OpenbaoSealed => "openbao_sealed",
            Self::OpenbaoNoLeader => "openbao_no_leader",
            Self::ClockWrong => "clock_wrong",
            Self::LoginRefused => "login_refused",
            Self::PolicyInsufficient => "policy_insufficient",
            Self::KeyLost => "key_lost",
            Self::KeyRecreated => "key_recreated",
            Self::OpenbaoRolledBack => "openbao_rolled_back",
            Self::VersionsLost => "versions_lost",
            Self::VersionsHidden => "versions_hidden",
            Self::KeyUnusable => "key_unusable",
            Self::EncryptionBlocked => "encryption_blocked",
            Self::ObjectsDamaged => "objects_damaged",
            Self::StateLost => "state_lost",
            Self::StateCorrupt => "state_corrupt",
            Self::StateOtherRelease => "state_other_release",
            Self::StateRolledBack => "state_rolled_back",
            Self::CheckpointLost => "checkpoint_lost",
            Self::StateExchanged => "state_exchanged",
            Self::NotRunning => "not_running",
            Self::SocketUnusable => "socket_unusable",
            Self::ProviderUnhealthy => "provider_unhealthy",
            Self::NotPermitted => "not_permitted",
            Self::EvidenceUnusable => "evidence_unusable",
            Self::NotEstablished => "not_established",
        }
    }

    /// The verdict of that word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|verdict| verdict.as_str() == word)
    }

    /// What is broken, in a sentence.
    #[must_use]
    pub fn headline(self) -> &'static str {
        match self {
            Self::Healthy => "nothing on this node's way is broken",
            Self::ConfigLost => "there is no configuration file",
            Self::ConfigInvalid => {
                "the configuration file is not YAML, or has settings that are not allowed"
            }
            Self::IdentityChanged => {
                "the configuration has other names than the state, the record or etcd"
            }
            Self::NodeMisconfigured => {
                "a file, directory or group that the configuration names is missing, unsafe, or not the provider's"
            }
            Self::StateLocked => "a process that is no provider has locked the state",
            Self::AuthMaterialUnusable => {
                "the JWT is missing, unreadable, expired, or has other claims than configured"
            }
            Self::OpenbaoUnreachable => "OpenBao does not answer",
            Self::NotOpenbao => "the response is not from OpenBao",
            Self::OpenbaoUntrusted => {
                "OpenBao's certificate is not one that the configured CA vouches for"
            }
            Self::OpenbaoUninitialized => "this OpenBao has no storage",
            Self::OpenbaoSealed => "OpenBao is sealed",
            Self::OpenbaoNoLeader => "OpenBao's cluster has no active server",
            Self::ClockWrong => "the login fails, and the clocks differ by more than the leeway",
            Self::LoginRefused => "OpenBao does not accept the login",
            Self::PolicyInsufficient => "the token may not do what the provider needs",
            Self::KeyLost => "OpenBao has no key at the configured mount and name",
            Self::KeyRecreated => "the key is another one under the same name",
            Self::OpenbaoRolledBack => {
                "OpenBao is from before a rotation that data was encrypted after"
            }
            Self::VersionsLost => "versions of the key that are needed are gone",
            Self::VersionsHidden => {
                "min_decryption_version is above versions of the key that are needed"
            }
            Self::KeyUnusable => "the key or its mount is set up in a way that is not safe to use",
            Self::EncryptionBlocked => "min_encryption_version is above the active version",
            Self::ObjectsDamaged => "values in etcd are damaged or were changed",
            Self::StateLost => "the registry state of this node is gone",
            Self::StateCorrupt => "the registry state or its checkpoint is not valid",
            Self::StateOtherRelease => {
                "a newer release of the provider wrote the registry state or its checkpoint"
            }
            Self::StateRolledBack => {
                "the registry state is older than its checkpoint, or of another history"
            }
            Self::CheckpointLost => {
                "the checkpoint is gone, so nothing shows that the registry state is the newest"
            }
            Self::StateExchanged => {
                "the running provider uses another key than the state on disk says"
            }
            Self::NotRunning => "the provider does not run, though it could",
            Self::SocketUnusable => "the provider runs, and nobody can use its socket",
            Self::ProviderUnhealthy => {
                "the provider does not answer, is unhealthy, or does not encrypt and decrypt"
            }
            Self::NotPermitted => "this user may not read what must be read",
            Self::EvidenceUnusable => {
                "the etcd data or the record cannot be read, is damaged, or is of another cluster or key"
            }
            Self::NotEstablished => "OpenBao gave an answer that does not tell",
        }
    }

    /// What it means for the data.
    #[must_use]
    pub fn data(self) -> DataImpact {
        match self {
            Self::Healthy
            | Self::ConfigLost
            | Self::ConfigInvalid
            | Self::NodeMisconfigured
            | Self::StateLocked
            | Self::AuthMaterialUnusable
            | Self::OpenbaoUnreachable
            | Self::OpenbaoUntrusted
            | Self::OpenbaoSealed
            | Self::OpenbaoNoLeader
            | Self::ClockWrong
            | Self::LoginRefused
            | Self::PolicyInsufficient
            | Self::EncryptionBlocked
            | Self::StateLost
            | Self::StateCorrupt
            | Self::StateOtherRelease
            | Self::CheckpointLost
            | Self::NotRunning
            | Self::SocketUnusable
            | Self::ProviderUnhealthy => DataImpact::NoneLost,
            Self::IdentityChanged
            | Self::OpenbaoUninitialized
            | Self::KeyUnusable
            | Self::StateRolledBack
            | Self::StateExchanged => DataImpact::AtRisk,
            Self::KeyLost
            | Self::KeyRecreated
            | Self::OpenbaoRolledBack
            | Self::VersionsLost
            | Self::ObjectsDamaged => DataImpact::LostWithoutBackup,
            Self::NotOpenbao
            | Self::VersionsHidden
            | Self::NotPermitted
            | Self::EvidenceUnusable
            | Self::NotEstablished => DataImpact::Unknown,
        }
    }

    /// Whether the walk has passed the key by then, so that a claim about the data rests on it.
    #[must_use]
    pub fn rests_on_the_key(self) -> bool {
        matches!(
            self,
            Self::Healthy
                | Self::EncryptionBlocked
                | Self::StateLost
                | Self::StateCorrupt
                | Self::CheckpointLost
                | Self::NotRunning
                | Self::SocketUnusable
                | Self::ProviderUnhealthy
        )
    }

    /// The same in a sentence. Of what comes later in the walk nothing is claimed.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Healthy => {
                "nothing is lost: this node reads and writes encrypted objects, and the key has \
                 every version that was asked for"
            }
            Self::ConfigLost | Self::ConfigInvalid => {
                "the loss of a configuration loses no data; objects can be read again as soon as the \
                 same names are configured as before"
            }
            Self::IdentityChanged => {
                "nothing is lost yet, but nothing can be read under other names, and what is written \
                 under them cannot be read under the right ones"
            }
            Self::NodeMisconfigured
            | Self::StateLocked
            | Self::ClockWrong
            | Self::NotRunning
            | Self::SocketUnusable
            | Self::ProviderUnhealthy => {
                "no data is lost by this: kube-apiserver waits for this node, and what is in etcd \
                 stays as it is"
            }
            Self::AuthMaterialUnusable | Self::LoginRefused | Self::PolicyInsufficient => {
                "no data is lost by this: the key is kept by OpenBao, and a running provider goes on \
                 until its token expires"
            }
            Self::OpenbaoUnreachable
            | Self::OpenbaoUntrusted
            | Self::OpenbaoSealed
            | Self::OpenbaoNoLeader => {
                "unreachable is not lost: the key lies in OpenBao's storage, and objects can be read \
                 again as soon as OpenBao answers"
            }
            Self::NotOpenbao => {
                "not known: a proxy, an ingress or a web server answered in OpenBao's place. Nothing \
                 shows that anything is lost"
            }
            Self::OpenbaoUninitialized => {
                "this server holds no key at all: either it is the wrong one, or its storage is gone \
                 and only a backup of OpenBao brings the data back"
            }
            Self::KeyLost => {
                "what was encrypted with the key cannot be read without a backup of OpenBao that has \
                 it; no new key decrypts it"
            }
            Self::KeyRecreated => {
                "what the original key encrypted cannot be read without a backup of OpenBao that has \
                 it; the key of today decrypts none of it"
            }
            Self::OpenbaoRolledBack => {
                "what was encrypted with versions that this OpenBao does not have yet cannot be read \
                 without a later backup of it, or an earlier one of etcd; older objects can be read"
            }
            Self::VersionsLost => {
                "what was encrypted with the missing versions cannot be read without a backup of \
                 OpenBao from before they were deleted; the rest can be read"
            }
            Self::VersionsHidden => {
                "not known: OpenBao neither lists nor uses versions below min_decryption_version, so \
                 whether they are the original ones is untested until the limit is lowered"
            }
            Self::KeyUnusable => {
                "nothing is lost yet, but as the key is set up it could be, so the provider does not \
                 use it"
            }
            Self::EncryptionBlocked => {
                "nothing is lost: objects can be read, and none can be written until the limit is \
                 lowered"
            }
            Self::ObjectsDamaged => {
                "the damaged objects cannot be read without an etcd backup from before; the key is \
                 there, and all others can be read"
            }
            Self::StateLost => {
                "nothing is lost: objects can be read again as soon as this node knows its versions, \
                 since the key is there"
            }
            Self::StateCorrupt => {
                "nothing is lost: the files say only which versions are in use, and the key is there"
            }
            Self::StateOtherRelease => {
                "nothing is lost: the release that wrote the state reads it, and the key is there"
            }
            Self::StateRolledBack => {
                "nothing is lost yet: the provider refuses this state, since keys in use may be \
                 missing from it"
            }
            Self::CheckpointLost => {
                "nothing is lost: the provider refuses a state that could be an older one"
            }
            Self::StateExchanged => {
                "nothing is lost yet, but what is written now may be unknown to this node after a \
                 restart"
            }
            Self::NotPermitted => {
                "not known: this user may not look. Nothing shows that anything is lost"
            }
            Self::EvidenceUnusable => {
                "not known from what was given. Nothing shows that anything is lost"
            }
            Self::NotEstablished => {
                "not known: a question got no clear answer. Nothing shows that anything is lost"
            }
        }
    }

    /// The exit code of the command.
    #[must_use]
    pub fn exit(self) -> Exit {
        match self {
            Self::Healthy => Exit::Success,
            Self::ConfigLost | Self::ConfigInvalid | Self::IdentityChanged => Exit::Configuration,
            Self::NotOpenbao
            | Self::NotPermitted
            | Self::EvidenceUnusable
            | Self::NotEstablished => Exit::Runtime,
            Self::NodeMisconfigured
            | Self::StateLocked
            | Self::AuthMaterialUnusable
            | Self::OpenbaoUnreachable
            | Self::OpenbaoUntrusted
            | Self::OpenbaoUninitialized
            | Self::OpenbaoSealed
            | Self::OpenbaoNoLeader
            | Self::ClockWrong
            | Self::LoginRefused
            | Self::PolicyInsufficient
            | Self::KeyLost
            | Self::KeyRecreated
            | Self::OpenbaoRolledBack
            | Self::VersionsLost
            | Self::VersionsHidden
            | Self::KeyUnusable
            | Self::EncryptionBlocked
            | Self::ObjectsDamaged
            | Self::StateLost
            | Self::StateCorrupt
            | Self::StateOtherRelease
            | Self::StateRolledBack
            | Self::CheckpointLost
            | Self::StateExchanged
            | Self::NotRunning
            | Self::SocketUnusable
            | Self::ProviderUnhealthy => Exit::CheckFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_words_are_those_of_the_json() {
        let mut words = BTreeSet::new();
        for verdict in Verdict::ALL {
            assert_eq!(
                serde_json::to_value(verdict).unwrap(),
                verdict.as_str(),
                "{verdict:?}"
            );
            assert_eq!(Verdict::named(verdict.as_str()), Some(verdict));
            let impact = verdict.data();
            assert_eq!(serde_json::to_value(impact).unwrap(), impact.as_str());
            words.insert(verdict.as_str());
        }
        assert_eq!(words.len(), Verdict::ALL.len());
        let schema = serde_json::to_value(schemars::schema_for!(Verdict)).unwrap();
        assert_eq!(schema["oneOf"].as_array().unwrap().len(), words.len());
    }

    #[test]
    fn the_page_has_every_verdict_as_it_is_told() {
        let page = include_str!("../../../../docs/operate/triage.md");
        let (_, table) = page.split_once("\n## Verdicts\n").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        let told: Vec<_> = rows
            .map(|row| row.split(" | ").take(4).collect::<Vec<_>>().join(" | "))
            .collect();
        let meant = Verdict::ALL.map(|verdict| {
            let (word, data) = (verdict.as_str(), verdict.data().as_str());
            let (exit, broken) = (verdict.exit().code(), verdict.headline());
            format!("| `{word}` | `{data}` | {exit} | {broken}")
        });
        assert_eq!(told, meant);
    }
}
