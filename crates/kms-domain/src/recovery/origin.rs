//! From a stored `key_id` back to the version of the key that it names.
//!
//! A `key_id` is a hash, so it cannot be read; but whoever knows the names, the versions and their
//! creation seconds can derive every `key_id` there can be, and find the stored one among them.

use std::{collections::HashMap, sync::Arc};

use crate::{
    annotations::{AnnotationMismatch, Annotations, AnnotationsInvalid},
    digest::MalformedDigest,
    fingerprint::differing_names,
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    transit::{CreatedAt, KeyProfile, TransitVersion},
};

/// What is known of a key lineage: the live key, and what records, state files and peers say.
#[derive(Debug)]
pub struct Lineage {
    scope: Arc<KeyScope>,
    live: LiveKey,
    /// Everything derivable, the live key's own versions last so that they win.
    keys: HashMap<KeyId, Arc<TransitKey>>,
}

/// What OpenBao says of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveKey {
    /// What it has.
    Listed(KeyProfile),
    /// That there is none.
    Missing,
    /// Nothing.
    Unknown,
}

/// What one stored `key_id` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A version that the live key lists: what it encrypted can be decrypted, unless the key was
    /// made anew in the same second. A decryption proves it.
    Live(Arc<TransitKey>),
    /// The version is known from a record, a state file or a peer, and the live key could not be
    /// looked at.
    Known(Arc<TransitKey>),
    /// Nothing that is known decrypts it now.
    Gap(Gap),
}

/// Why a stored `key_id` cannot be decrypted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// No provider of this design wrote it.
    #[error("the key_id is malformed")]
    KeyId(#[source] MalformedDigest),
    /// No provider of this design wrote them.
    #[error("the annotations are invalid")]
    Annotations(#[source] AnnotationsInvalid),
    /// The annotations were changed, or belong to another object.
    #[error("the annotations do not belong to the key_id")]
    Foreign(#[source] AnnotationMismatch),
    /// Written under other names.
    #[error(
        "it was written under another identity: {} differs from this configuration",
        .names.join(", ")
    )]
    OtherScope {
        /// The configuration keys that differ. Without a record or a peer that has the `key_id`,
        /// only the three whose hashes are in the annotations can be told.
        names: Vec<&'static str>,
    },
    /// The key was never rotated so far, or was restored to before.
    #[error("it needs version {version}, but the key's latest version is {latest}")]
    NewerThanLatest {
        /// By the annotations.
        version: TransitVersion,
        /// `latest_version`
        latest: TransitVersion,
        /// When the version that is needed was made, if a record, a state file or a peer tells.
        recorded: Option<CreatedAt>,
    },
    /// The material is gone from this OpenBao.
    #[error("it needs version {version}, which was trimmed: min_available_version is {minimum}")]
    Trimmed {
        /// By the annotations.
        version: TransitVersion,
        /// `min_available_version`
        minimum: u64,
    },
    /// The material is there, but OpenBao neither lists nor uses it.
    #[error("it needs version {version}, which min_decryption_version {minimum} hides")]
    Hidden {
        /// By the annotations.
        version: TransitVersion,
        /// `min_decryption_version`
        minimum: u64,
        /// Whether a record, a state file or a peer shows that the version was this very one.
        known: bool,
    },
    /// The live version of that number is another one.
    #[error(
        "it needs a version {version} that is not the live one, made at {live}: another creation \
         second{}, or another providerName, clusterId or instanceId",
        .recorded.map_or(String::new(), |at| format!(" ({at} by a record, state file or peer)"))
    )]
    OtherCreation {
        /// By the annotations.
        version: TransitVersion,
        /// When the live version was made.
        live: CreatedAt,
        /// When the version that is needed was made, if anything tells.
        recorded: Option<CreatedAt>,
    },
    /// OpenBao has lost the key, or it is elsewhere.
    #[error("it needs version {version}, but there is no such key in this OpenBao")]
    NoKey {
        /// By the annotations.
        version: TransitVersion,
    },
    /// The live key could not be looked at, and nothing else names it.
    #[error("it needs version {version}, of which nothing is known here")]
    Unknown {
        /// By the annotations.
        version: TransitVersion,
    },
}

impl Lineage {
    /// Derives every `key_id` of the live key and takes those that other evidence names, of this or
    /// of another scope.
    #[must_use]
    pub fn new(
        scope: Arc<KeyScope>,
        live: LiveKey,
        evidence: impl IntoIterator<Item = Arc<TransitKey>>,
    ) -> Self {
        let derived = |(version, created_at)| {
            Arc::new(TransitKey::new(Arc::clone(&scope), version, created_at))
        };
        let listed = match &live {
            LiveKey::Listed(profile) => profile.listed().map(derived).collect(),
            LiveKey::Missing | LiveKey::Unknown => Vec::new(),
        };
        let keys = evidence.into_iter().chain(listed);
        let keys = keys.map(|key| (key.id().clone(), key)).collect();
        Self { scope, live, keys }
    }

    /// The names that the key is looked for under.
    #[must_use]
    pub fn scope(&self) -> &Arc<KeyScope> {
        &self.scope
    }

    /// The live key.
    #[must_use]
    pub fn live(&self) -> &LiveKey {
        &self.live
    }

    /// Finds the version that a stored object names. `annotations` are those of the object, read.
    #[must_use]
    pub fn origin(
        &self,
        key_id: &str,
        annotations: Result<&Annotations, AnnotationsInvalid>,
    ) -> Origin {
        match self.find(key_id, annotations) {
            Ok(origin) => origin,
            Err(gap) => Origin::Gap(gap),
        }
    }

    /// Finds the version that a stored object names, whether or not OpenBao has it still.
    ///
    /// # Errors
    /// Why it is none that is known here.
    pub fn named(
        &self,
        key_id: &str,
        annotations: Result<&Annotations, AnnotationsInvalid>,
    ) -> Result<&Arc<TransitKey>, Gap> {
        let (version, key) = self.identify(key_id, annotations)?;
        key.ok_or_else(|| self.gap(version, None))
    }

    /// Whether the `key_id` is of a version that is known here, whoever names it.
    #[must_use]
    pub fn knows(&self, key_id: &str) -> bool {
        KeyId::parse(key_id).is_ok_and(|key_id| self.keys.contains_key(&key_id))
    }

    fn find(
        &self,
        key_id: &str,
        annotations: Result<&Annotations, AnnotationsInvalid>,
    ) -> Result<Origin, Gap> {
        let (version, key) = self.identify(key_id, annotations)?;
        match (&self.live, key) {
            (LiveKey::Listed(profile), Some(key))
                if profile.created_at(version) == Some(key.created_at()) =>
            {
                Ok(Origin::Live(Arc::clone(key)))
            }
            (LiveKey::Unknown, Some(key)) => Ok(Origin::Known(Arc::clone(key))),
            (_, key) => Err(self.gap(version, key.map(|key| key.created_at()))),
        }
    }

    /// What the annotations claim, once they are found to be those of the `key_id` and of these
    /// names; and the version itself, if it is known.
    fn identify(
        &self,
        key_id: &str,
        annotations: Result<&Annotations, AnnotationsInvalid>,
    ) -> Result<(TransitVersion, Option<&Arc<TransitKey>>), Gap> {
        let key_id = KeyId::parse(key_id).map_err(Gap::KeyId)?;
        let annotations = annotations.map_err(Gap::Annotations)?;
        annotations.require_key_id(&key_id).map_err(Gap::Foreign)?;
        let key = self.keys.get(&key_id);
        if let Some(key) = key {
            annotations.require_match(key).map_err(Gap::Foreign)?;
            let names = differing_names(self.scope.identity(), key.scope().identity());
            if !names.is_empty() {
                return Err(Gap::OtherScope { names });
            }
        }
        let names = annotations.names_outside(&self.scope);
        if !names.is_empty() {
            return Err(Gap::OtherScope { names });
        }
        Ok((annotations.transit_version(), key))
    }

    /// Why the live key is of no help; `recorded` is when the version was made, if that is known.
    fn gap(&self, version: TransitVersion, recorded: Option<CreatedAt>) -> Gap {
        match &self.live {
            LiveKey::Missing => Gap::NoKey { version },
            LiveKey::Unknown => Gap::Unknown { version },
            LiveKey::Listed(profile) => match profile.created_at(version) {
                Some(live) => Gap::OtherCreation {
                    version,
                    live,
                    recorded,
                },
                None => unlisted(profile, version, recorded),
            },
        }
    }
}

/// `keys` of the metadata begins at `min_decryption_version`.
fn unlisted(profile: &KeyProfile, version: TransitVersion, recorded: Option<CreatedAt>) -> Gap {
    if version > profile.latest() {
        Gap::NewerThanLatest {
            version,
            latest: profile.latest(),
            recorded,
        }
    } else if version.get() < profile.min_available() {
        Gap::Trimmed {
            version,
            minimum: profile.min_available(),
        }
    } else {
        Gap::Hidden {
            version,
            minimum: profile.min_decryption(),
            known: recorded.is_some(),
        }
    }
}

impl Gap {
    /// The stable word for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyId(_) => "key_id_malformed",
            Self::Annotations(_) => "annotation_invalid",
            Self::Foreign(_) => "annotation_mismatch",
            Self::OtherScope { .. } => "other_scope",
            Self::NewerThanLatest { .. } => "newer_than_latest",
            Self::Trimmed { .. } => "trimmed",
            Self::Hidden { .. } => "hidden",
            Self::OtherCreation { .. } => "other_creation",
            Self::NoKey { .. } => "no_key",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The version that is needed, as far as it can be told.
    #[must_use]
    pub fn version(&self) -> Option<TransitVersion> {
        match self {
            Self::KeyId(_) | Self::Annotations(_) | Self::Foreign(_) | Self::OtherScope { .. } => {
                None
            }
            Self::NewerThanLatest { version, .. }
            | Self::Trimmed { version, .. }
            | Self::Hidden { version, .. }
            | Self::OtherCreation { version, .. }
            | Self::NoKey { version }
            | Self::Unknown { version } => Some(*version),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        annotations::PluginVersion,
        scope::{ClusterId, KeyLineageId, Namespace, TransitMountId},
        vectors,
    };

    fn scope() -> Arc<KeyScope> {
        Arc::new(KeyScope::new(vectors::golden_scope()))
    }

    fn key(number: u64, seconds: u64) -> Arc<TransitKey> {
        let version = vectors::version(number);
        let created_at = vectors::created_at(seconds);
        Arc::new(TransitKey::new(scope(), version, created_at))
    }

    fn written(key: &TransitKey) -> Annotations {
        Annotations::for_key(key, &PluginVersion::new("v1").unwrap())
    }

    /// What `lineage` makes of an object that was written under `key`.
    fn origin(lineage: &Lineage, key: &TransitKey) -> Origin {
        lineage.origin(key.id().as_str(), Ok(&written(key)))
    }

    fn gap(lineage: &Lineage, key: &TransitKey) -> Gap {
        let found = origin(lineage, key);
        let Origin::Gap(gap) = found else {
            panic!("{found:?}")
        };
        gap
    }

    /// Versions 3 to 5 are listed, 2 is hidden, 1 is trimmed; version `n` was made at second `n`.
    fn live() -> Lineage {
        let profile = vectors::profile(&[(3, 3), (4, 4), (5, 5)], 2, 3);
        Lineage::new(scope(), LiveKey::Listed(profile), [])
    }

    #[test]
    fn a_listed_version_is_live() {
        assert_eq!(origin(&live(), &key(4, 4)), Origin::Live(key(4, 4)));
    }

    #[test]
    fn a_version_that_the_key_does_not_have_is_named_with_the_limit_that_hides_it() {
        let version = vectors::version;
        assert_eq!(
            gap(&live(), &key(6, 6)),
            Gap::NewerThanLatest {
                version: version(6),
                latest: version(5),
                recorded: None,
            }
        );
        assert_eq!(
            gap(&live(), &key(1, 1)),
            Gap::Trimmed {
                version: version(1),
                minimum: 2,
            }
        );
        let hidden = |known| Gap::Hidden {
            version: version(2),
            minimum: 3,
            known,
        };
        assert_eq!(gap(&live(), &key(2, 2)), hidden(false));
        let key_now = live().live().clone();
        let told = Lineage::new(scope(), key_now, [key(2, 2)]);
        assert_eq!(gap(&told, &key(2, 2)), hidden(true));
    }

    #[test]
    fn the_same_number_made_at_another_second_is_another_version() {
        let other = |recorded| Gap::OtherCreation {
            version: vectors::version(4),
            live: vectors::created_at(4),
            recorded,
        };
        assert_eq!(gap(&live(), &key(4, 40)), other(None));
        let key_now = live().live().clone();
        let told = Lineage::new(scope(), key_now, [key(4, 40)]);
        let recorded = Some(vectors::created_at(40));
        assert_eq!(gap(&told, &key(4, 40)), other(recorded));
    }

    #[test]
    fn a_name_that_differs_is_told_by_the_annotations_or_else_by_a_record() {
        let renamed = |change: fn(&mut crate::scope::IdentityScope)| {
            let mut identity = vectors::golden_scope();
            change(&mut identity);
            let scope = Arc::new(KeyScope::new(identity));
            Arc::new(TransitKey::new(
                scope,
                vectors::version(4),
                vectors::created_at(4),
            ))
        };
        for (change, name) in [
            (
                renamed(|it| it.openbao_namespace = Some(Namespace::parse("other").unwrap())),
                "openbao.namespace",
            ),
            (
                renamed(|it| it.transit_mount_id = TransitMountId::parse("other").unwrap()),
                "transit.keyIdScope.transitMountId",
            ),
            (
                renamed(|it| it.key_lineage_id = KeyLineageId::parse("other").unwrap()),
                "transit.keyIdScope.keyLineageId",
            ),
        ] {
            let names = vec![name];
            assert_eq!(gap(&live(), &change), Gap::OtherScope { names });
        }
        let other_cluster =
            renamed(|identity| identity.cluster_id = ClusterId::parse("other").unwrap());
        assert_eq!(gap(&live(), &other_cluster).code(), "other_creation");
        let key_now = live().live().clone();
        let told = Lineage::new(scope(), key_now, [Arc::clone(&other_cluster)]);
        assert_eq!(
            gap(&told, &other_cluster),
            Gap::OtherScope {
                names: vec!["transit.keyIdScope.clusterId"],
            }
        );
    }

    #[test]
    fn what_no_provider_writes_is_told_from_what_was_exchanged() {
        let own = key(4, 4);
        let unknown = key(4, 40);
        let malformed = live().origin("no key_id", Ok(&written(&own)));
        assert!(matches!(malformed, Origin::Gap(Gap::KeyId(_))));
        let invalid = live().origin(own.id().as_str(), Err(AnnotationsInvalid::Empty));
        assert!(matches!(invalid, Origin::Gap(Gap::Annotations(_))));
        for key in [own, unknown] {
            let exchanged = live().origin(key.id().as_str(), Ok(&written(&self::key(5, 5))));
            assert!(matches!(exchanged, Origin::Gap(Gap::Foreign(_))));
        }
    }

    #[test]
    fn without_a_live_key_evidence_names_the_version_and_proves_nothing() {
        let lineage = Lineage::new(scope(), LiveKey::Unknown, [key(1, 1), key(1, 1)]);
        assert_eq!(origin(&lineage, &key(1, 1)), Origin::Known(key(1, 1)));
        let version = vectors::version(2);
        assert_eq!(gap(&lineage, &key(2, 2)), Gap::Unknown { version });
        let lost = Lineage::new(scope(), LiveKey::Missing, [key(2, 2)]);
        assert_eq!(gap(&lost, &key(2, 2)), Gap::NoKey { version });
    }

    #[test]
    fn a_version_that_openbao_has_no_more_is_still_the_one_that_is_named() {
        let key_now = live().live().clone();
        let lineage = Lineage::new(scope(), key_now, [key(1, 1), key(2, 2)]);
        let named = |key: &TransitKey| {
            let named = lineage.named(key.id().as_str(), Ok(&written(key)));
            named.map(Arc::clone)
        };
        for number in 1..=5 {
            assert_eq!(named(&key(number, number)), Ok(key(number, number)));
        }
        for unknown in [key(4, 40), key(1, 2), key(6, 6)] {
            assert!(!lineage.knows(unknown.id().as_str()));
            assert_eq!(named(&unknown), Err(gap(&lineage, &unknown)));
        }
        let other = written(&key(2, 2));
        assert!(lineage.knows(key(1, 1).id().as_str()));
        assert!(matches!(
            lineage.named(key(1, 1).id().as_str(), Ok(&other)),
            Err(Gap::Foreign(_))
        ));
    }

    proptest! {
        #[test]
        fn nothing_but_a_listed_version_of_the_same_names_is_live(
            object in vectors::any_key(),
            evidence in vectors::any_key(),
        ) {
            let key_now = live().live().clone();
            let lineage = Lineage::new(scope(), key_now, [Arc::new(evidence)]);
            prop_assert!(matches!(origin(&lineage, &object), Origin::Gap(_)));
        }
    }
}
