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
    profile: Option<KeyProfile>,
    /// Everything derivable, the live key's own versions last so that they win.
    keys: HashMap<KeyId, Arc<TransitKey>>,
}

/// What one stored `key_id` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A version that the live key lists: what it encrypted can be decrypted, unless the key was
    /// made anew in the same second. A decryption proves it.
    Live(Arc<TransitKey>),
    /// The version is known from a record, a state file or a peer, and there is no live key to
    /// look for it in.
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
    /// There is no live key, and nothing else names it.
    #[error("it needs version {version}, of which nothing is known here")]
    Unknown {
        /// By the annotations.
        version: TransitVersion,
    },
}

impl Lineage {
    /// Derives every `key_id` of the live key, if there is one to ask, and takes those that other
    /// evidence names, of this or of another scope.
    #[must_use]
    pub fn new(
        scope: Arc<KeyScope>,
        profile: Option<KeyProfile>,
        evidence: impl IntoIterator<Item = Arc<TransitKey>>,
    ) -> Self {
        let derived = |(version, created_at)| {
            Arc::new(TransitKey::new(Arc::clone(&scope), version, created_at))
        };
        let live: Vec<_> = profile.iter().flat_map(KeyProfile::listed).collect();
        let keys = evidence
            .into_iter()
            .chain(live.into_iter().map(derived))
            .map(|key| (key.id().clone(), key))
            .collect();
        Self {
            scope,
            profile,
            keys,
        }
    }

    /// The names that the key is looked for under.
    #[must_use]
    pub fn scope(&self) -> &Arc<KeyScope> {
        &self.scope
    }

    /// The live key, if it could be asked.
    #[must_use]
    pub fn profile(&self) -> Option<&KeyProfile> {
        self.profile.as_ref()
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

    fn find(
        &self,
        key_id: &str,
        annotations: Result<&Annotations, AnnotationsInvalid>,
    ) -> Result<Origin, Gap> {
        let key_id = KeyId::parse(key_id).map_err(Gap::KeyId)?;
        let annotations = annotations.map_err(Gap::Annotations)?;
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
        let version = annotations.transit_version();
        let Some(profile) = &self.profile else {
            return match key {
                Some(key) => Ok(Origin::Known(Arc::clone(key))),
                None => Err(Gap::Unknown { version }),
            };
        };
        match (key, profile.created_at(version)) {
            (Some(key), Some(live)) if key.created_at() == live => {
                Ok(Origin::Live(Arc::clone(key)))
            }
            (recorded, Some(live)) => Err(Gap::OtherCreation {
                version,
                live,
                recorded: recorded.map(|key| key.created_at()),
            }),
            (known, None) => Err(unlisted(profile, version, known.is_some())),
        }
    }
}

/// `keys` of the metadata begins at `min_decryption_version`.
fn unlisted(profile: &KeyProfile, version: TransitVersion, known: bool) -> Gap {
    if version > profile.latest() {
        Gap::NewerThanLatest {
            version,
            latest: profile.latest(),
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
            known,
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
            Self::Unknown { .. } => "unknown",
        }
    }
}
