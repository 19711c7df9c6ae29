//! What follows from each refusal, the next step, and what must not be done.

use super::Refusal;
use crate::{recovery::origin::Gap, transit::VersionProblem};

impl Refusal {
    /// What would follow, or what is at stake for the data.
    #[must_use]
    pub fn consequence(&self) -> &'static str {
        match self {
            Self::NoEvidence => {
                "the key's metadata does not tell which version the nodes encrypt with, nor which \
                 ones stored objects need; no object is lost by that"
            }
            Self::StateInPlace { .. } | Self::OtherState { .. } | Self::NothingToReplace { .. } => {
                "nothing needs to be rebuilt as asked; no object is lost"
            }
            Self::OtherIdentity { .. } => {
                "a state made from it would name other keys than the stored objects do, and none \
                 of them could be read"
            }
            Self::PeerNoPair { .. } | Self::PeerUnanchored { .. } => {
                "it may be an older state, which names a version as active that the peers have left"
            }
            Self::NoObjects { .. } => {
                "it shows nothing about the key: it is another cluster's, or was made before this \
                 cluster used the provider"
            }
            Self::Undecryptable {
                gap: Gap::Hidden { .. },
                ..
            } => {
                "they cannot be read while the minimum hides the version, and whether the key decrypts \
                 them is untested"
            }
            Self::Undecryptable { .. } | Self::NotDecrypted { .. } => {
                "with this OpenBao and this configuration those objects stay unreadable, so they \
                 are not the ones that they were written with"
            }
            Self::Untried { .. } => "nothing proves that the key decrypts them",
            Self::Unreadable { .. } => {
                "the node can serve all other objects; these cannot be read by any node that uses \
                 this OpenBao, with or without the plan"
            }
            Self::AcceptanceIdle { .. } => "none: every object of the evidence decrypts",
            Self::ActiveUnproven { .. } => {
                "the node would encrypt with a version that may not be the one of the stored objects"
            }
            Self::ActiveRemoved { .. } => {
                "its node has left the version for a higher one, so the key_id would flip back"
            }
            Self::NeverRotated { .. } => {
                "the key was recreated, or OpenBao was restored to a point before its rotations; \
                 objects written under the rotated versions cannot be read with it"
            }
            Self::AboveLatest { .. } => {
                "OpenBao holds an older copy of the key; what was written since cannot be read \
                 until the newer one is back"
            }
            Self::Recreated { .. } | Self::Contradiction { .. } => {
                "they are different keys under one number: what one has encrypted the other does \
                 not decrypt"
            }
            Self::Unaccounted { .. } => {
                "objects under that version could not be read, and nothing shows that there are \
                 none"
            }
            Self::ActiveUnusable { .. } | Self::ActiveBlocked { .. } => {
                "the node could not encrypt, and every write of a protected object would fail"
            }
            Self::Undecided { .. } => {
                "if a node has promoted a version beyond, this node would encrypt with an older \
                 version than its peers, and the key_id would flip back"
            }
            Self::AssumptionWrong { .. } => {
                "the node would go back to a version that the nodes have left"
            }
            Self::AssumptionIdle { .. } => "none: the assumption settles nothing",
            Self::Document(_) => "the node has no state until this is settled; no object is lost",
        }
    }

    /// What to do now.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::NoEvidence => {
                "give at least one: --etcd-snapshot or --endpoints, --record, or --peer-state with \
                 its checkpoint beside it; a fresh pair from a peer that serves is the best"
                    .to_owned()
            }
            Self::StateInPlace { hash, .. } => format!(
                "start the provider; only if this very state is to be given up, add --replace \
                 --expected-state-hash {hash}"
            ),
            Self::OtherState { .. } => {
                "look at the state with inspect-state, and give the hash of the state that is to \
                 be given up"
                    .to_owned()
            }
            Self::NothingToReplace { .. } => {
                "leave out --replace and --expected-state-hash".to_owned()
            }
            Self::OtherIdentity { .. } => {
                "if the evidence is this cluster's, change the configuration back to what it names; \
                 else take this cluster's"
                    .to_owned()
            }
            Self::PeerNoPair { .. } | Self::PeerUnanchored { .. } => {
                "copy state and checkpoint together from a peer that serves, the checkpoint beside \
                 the state as FILE.checkpoint"
                    .to_owned()
            }
            Self::NoObjects { .. } => {
                "look at it with scan-etcd, and give this cluster's own etcd or a later snapshot of \
                 it"
                .to_owned()
            }
            Self::Undecryptable { gap, .. } => after_gap(gap),
            Self::NotDecrypted { .. } => {
                "run verify-backup with this etcd: it names the cause; then point the \
                 configuration at the OpenBao that has the original key, or restore it"
                    .to_owned()
            }
            Self::Untried { .. } => {
                "try again; to try only some on purpose, give --sample".to_owned()
            }
            Self::Unreadable { .. } => {
                "restore the storage or the backup that has them; if they are lost for good, accept \
                 their exact number"
                    .to_owned()
            }
            Self::AcceptanceIdle { .. } => {
                "leave out --accept-unreadable and make a new plan".to_owned()
            }
            Self::ActiveUnproven { .. } => {
                "restore the OpenBao storage that has the original key; or add the state of a peer \
                 that serves, or etcd data of which a DEK of that version decrypts"
                    .to_owned()
            }
            Self::ActiveRemoved { .. } => {
                "find the version that the peers encrypt with (compare-nodes), and give the state of \
                 a peer that serves"
                    .to_owned()
            }
            Self::NeverRotated { .. } => {
                "restore the OpenBao storage from after the rotations; if recover-state made those \
                 generations (its journals are beside the state), add etcd data to the evidence"
                    .to_owned()
            }
            Self::AboveLatest { version, .. } => {
                format!("restore the OpenBao storage that has version {version}")
            }
            Self::Recreated { .. } => {
                "restore the OpenBao storage that has the original key, or take evidence of this \
                 cluster's key"
                    .to_owned()
            }
            Self::Contradiction { .. } => {
                "find out which of the two is not of this cluster and leave it out".to_owned()
            }
            Self::Unaccounted { problem, .. } => match problem {
                VersionProblem::Hidden { version, .. } => format!(
                    "lower min_decryption_version to {version}; or, if no object needs it, add the \
                     etcd data that shows so"
                ),
                VersionProblem::AboveLatest { .. }
                | VersionProblem::Trimmed { .. }
                | VersionProblem::Unlisted(_)
                | VersionProblem::OtherCreation { .. } => "add the etcd data, live or a snapshot of now, that shows that no object \
                      needs it"
                    .to_owned(),
            },
            Self::ActiveUnusable { problem, .. } => match problem {
                VersionProblem::Hidden { version, .. } => {
                    format!("lower min_decryption_version to {version} or less")
                }
                VersionProblem::AboveLatest { .. }
                | VersionProblem::Trimmed { .. }
                | VersionProblem::Unlisted(_)
                | VersionProblem::OtherCreation { .. } => "restore the OpenBao storage that has the version".to_owned(),
            },
            Self::ActiveBlocked { active, .. } => {
                format!("lower min_encryption_version to {active} or less")
            }
            Self::Undecided { versions, .. } => format!(
                "wait until the peers have promoted the newest version (rotation-plan on a peer), \
                 then give a peer's state, a record or etcd data from after that. Only if no node \
                 has promoted any of them: --assume-not-promoted {}; if that is wrong, this node \
                 encrypts with an older version again until it has promoted the newest one itself, \
                 and no data is lost",
                versions.first
            ),
            Self::AssumptionWrong { .. } | Self::AssumptionIdle { .. } => {
                "leave out --assume-not-promoted and make a new plan".to_owned()
            }
            Self::Document(_) => "keep all files and report this message".to_owned(),
        }
    }

    /// What would make it worse.
    #[must_use]
    pub fn do_not(&self) -> &'static str {
        match self {
            Self::NoEvidence => "do not recreate the key to get back to version 1",
            Self::StateInPlace { .. } | Self::OtherState { .. } | Self::NothingToReplace { .. } => {
                "do not delete the state or the checkpoint to make room"
            }
            Self::OtherIdentity { .. } => "do not edit the evidence to fit",
            Self::PeerNoPair { .. } | Self::PeerUnanchored { .. } => {
                "do not write the checkpoint by hand"
            }
            Self::NoObjects { .. } => "do not go on with evidence that shows nothing",
            Self::Undecryptable { .. }
            | Self::NotDecrypted { .. }
            | Self::AboveLatest { .. }
            | Self::Recreated { .. }
            | Self::ActiveUnproven { .. }
            | Self::NeverRotated { .. }
            | Self::ActiveUnusable { .. } => {
                "do not rotate, trim or recreate the key, and do not delete the data in etcd"
            }
            Self::Untried { .. } => "do not sample where there is time to try all",
            Self::Unreadable { .. } => {
                "do not accept objects that a backup still has, and do not delete them from etcd"
            }
            Self::AcceptanceIdle { .. } => "do not accept a number that no plan has shown",
            Self::ActiveRemoved { .. } => "do not leave that evidence out to get on",
            Self::Contradiction { .. } => "do not pick the evidence that happens to be accepted",
            Self::Unaccounted { .. } => "do not trim the key",
            Self::ActiveBlocked { .. } => "do not rotate the key to get past it",
            Self::Undecided { .. } => {
                "do not assume it to get on faster, and do not rotate the key again"
            }
            Self::AssumptionWrong { .. } | Self::AssumptionIdle { .. } => {
                "do not guess the version"
            }
            Self::Document(_) => "do not edit them",
        }
    }
}

fn after_gap(gap: &Gap) -> String {
    match gap {
        Gap::KeyId(_) | Gap::Annotations(_) | Gap::Foreign(_) => {
            "find out with verify-backup what wrote or changed them; they need a backup of etcd \
             from before"
                .to_owned()
        }
        Gap::OtherScope { .. } => {
            "if this etcd is this cluster's, change those names of the configuration back; else \
             give this cluster's"
                .to_owned()
        }
        Gap::NewerThanLatest { version, .. } => {
            format!("restore the OpenBao storage that has version {version}")
        }
        Gap::Trimmed { version, .. } => format!(
            "restore the OpenBao storage from before version {version} was trimmed; or, if a later \
             etcd no longer needs it, give that one"
        ),
        Gap::Hidden { version, .. } => {
            format!("lower min_decryption_version to {version} or less, and make a new plan")
        }
        Gap::OtherCreation { .. } | Gap::Recreated { .. } => {
            "restore the OpenBao storage that has the original key; or, if this etcd is another \
             cluster's, give this cluster's"
                .to_owned()
        }
        Gap::OtherProvider { provider, .. } => format!(
            "run verify-backup with the configuration of the provider that writes under the name \
             {provider:?}: it tells whether these objects decrypt"
        ),
        Gap::NoKey { .. } | Gap::Unknown { .. } => {
            "point the configuration at the OpenBao that has the key".to_owned()
        }
    }
}
