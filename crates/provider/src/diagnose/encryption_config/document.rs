//! The file as `apiserver.config.k8s.io/v1` defines it: which keys exist and of which type.
//!
//! A key's name and secret are measured while they are read and not kept. Copies that the YAML
//! parser makes of them are out of our reach; they are never shown.

use std::{fmt, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize,
    de::{self, Visitor},
};
use serde_saphyr::{
    Error, Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy},
};
use zeroize::Zeroizing;

use crate::config::positive_duration;

/// The one document of such a file.
pub(super) struct Document {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) entries: Vec<Entry>,
}

/// Some resources, and what encrypts them.
pub(super) struct Entry {
    pub(super) line: u64,
    pub(super) resources: Vec<String>,
    pub(super) providers: Vec<Element>,
}

/// One element of a list of providers: in a good file of exactly one kind.
pub(super) struct Element {
    pub(super) line: u64,
    pub(super) kinds: Vec<Provider>,
}

/// What encrypts. Its first one encrypts what is written, all decrypt what is read.
pub(super) enum Provider {
    Kms(Kms),
    Identity,
    /// With keys that stand in the file.
    Local {
        kind: &'static str,
        /// Bytes of a key.
        sizes: &'static [usize],
        keys: Vec<Key>,
    },
}

/// A plugin behind a socket.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kms {
    api_version: Option<String>,
    name: Option<String>,
    endpoint: Option<String>,
    #[serde(rename = "cachesize")]
    pub(super) cache_size: Option<i64>,
    timeout: Option<String>,
}

/// A key in the file; its content is not kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) name: Option<Measured>,
    pub(super) secret: Option<Measured>,
}

/// What may be known of a secret text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Measured {
    Empty,
    /// Base64 of so many bytes.
    Base64(usize),
    Other,
}

/// The API between kube-apiserver and the plugin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KmsVersion {
    V1,
    V2,
}

/// What kube-apiserver takes when the file does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

impl Kms {
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// `None` if there is no such version. Without a word it is v1.
    pub(super) fn version(&self) -> Option<KmsVersion> {
        match self.api_version.as_deref().unwrap_or_default() {
            "" | "v1" => Some(KmsVersion::V1),
            "v2" => Some(KmsVersion::V2),
            _ => None,
        }
    }

    /// The socket; `None` unless the endpoint is `unix:` with a path and without a host.
    pub(super) fn socket(&self) -> Option<&Path> {
        let path = self.endpoint.as_deref()?.strip_prefix("unix:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        // These would end the path or stand for other characters.
        let plain = !path.contains(['%', '?', '#']) && !path.contains(char::is_control);
        (path.starts_with('/') && path.len() > 1 && plain).then_some(Path::new(path))
    }

    /// How long kube-apiserver waits for an answer.
    ///
    /// # Errors
    /// The broken rule, without the value.
    pub(super) fn timeout(&self) -> Result<Duration, String> {
        let timeout = self.timeout.as_deref();
        timeout.map_or(Ok(DEFAULT_TIMEOUT), positive_duration)
    }
}

/// Why a text is no such document. Its content is not repeated.
#[derive(Debug)]
pub(super) struct Malformed {
    /// Line and column, both from 1.
    at: Option<(u64, u64)>,
    rule: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.rule)
    }
}

/// Reads one document with no other keys than those of the format.
pub(super) fn parse(text: &str) -> Result<Document, Malformed> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_events: 16_384,
            max_nodes: 8_192,
            max_depth: 16,
            max_anchors: 16,
            max_aliases: 64,
            max_total_scalar_bytes: 256 * 1024,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 1024 },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        // kube-apiserver does not take a number where it expects text.
        no_schema: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let raw: Raw =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| malformed(&error))?;
    let entries = raw.resources.unwrap_or_default();
    Ok(Document {
        api_version: raw.api_version,
        kind: raw.kind,
        entries: entries.into_iter().map(RawEntry::placed).collect(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    api_version: Option<String>,
    kind: Option<String>,
    resources: Option<Vec<Spanned<RawEntry>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    resources: Option<Vec<String>>,
    providers: Option<Vec<Spanned<RawProvider>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    kms: Option<Kms>,
    identity: Option<Nothing>,
    aescbc: Option<Keys>,
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Option<Vec<Key>>,
}

impl RawEntry {
    fn placed(entry: Spanned<Self>) -> Entry {
        let Self {
            resources,
            providers,
        } = entry.value;
        let element = |provider: Spanned<RawProvider>| Element {
            line: provider.referenced.line(),
            kinds: provider.value.kinds(),
        };
        let providers = providers.unwrap_or_default();
        Entry {
            line: entry.referenced.line(),
            resources: resources.unwrap_or_default(),
            providers: providers.into_iter().map(element).collect(),
        }
    }
}

impl RawProvider {
    fn kinds(self) -> Vec<Provider> {
        let local = |kind, sizes, keys: Option<Keys>| {
            keys.map(|keys| Provider::Local {
                kind,
                sizes,
                keys: keys.keys.unwrap_or_default(),
            })
        };
        let kinds = [
            self.kms.map(Provider::Kms),
            self.identity.map(|Nothing {}| Provider::Identity),
            local("aescbc", &[16, 24, 32], self.aescbc),
            local("aesgcm", &[16, 24, 32], self.aesgcm),
            local("secretbox", &[32], self.secretbox),
        ];
        kinds.into_iter().flatten().collect()
    }
}

impl<'de> Deserialize<'de> for Measured {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Measure)
    }
}

struct Measure;

impl Visitor<'_> for Measure {
    type Value = Measured;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Measured, E> {
        Ok(Measured::of(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Measured, E> {
        Ok(Measured::of(&Zeroizing::new(text)))
    }
}

impl Measured {
    fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self::Empty;
        }
        let bytes = STANDARD.decode(text).map(Zeroizing::new);
        bytes.map_or(Self::Other, |bytes| Self::Base64(bytes.len()))
    }
}

/// The parser's own message may quote the file, so only what cannot is taken from it.
fn malformed(error: &Error) -> Malformed {
    let location = error.location().filter(|location| location.line() > 0);
    let rule = match error {
        Error::SerdeUnknownField { expected, .. } => {
            format!("unknown key; known here: {}", expected.join(", "))
        }
        Error::SerdeInvalidType { .. }
        | Error::SerdeInvalidValue { .. }
        | Error::InvalidScalar { .. }
        | Error::Unexpected { .. } => "a value of another type than it must have here".to_owned(),
        Error::QuotingRequired { .. } => {
            "a number or a boolean where a text must stand; put it in quotes if it is one"
                .to_owned()
        }
        Error::DuplicateMappingKey { .. } => "a key that is written twice".to_owned(),
        Error::MultipleDocuments { .. } => "more than one YAML document".to_owned(),
        Error::MergeKeyNotAllowed { .. } => "a merge key (<<)".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => {
            "more keys, values or aliases than any real file has".to_owned()
        }
        Error::Eof { .. } => "the file is empty, or ends too early".to_owned(),
        _ => "this is not YAML: look at indentation, quotes and tabs near here".to_owned(),
    };
    Malformed {
        at: location.map(|location| (location.line(), location.column())),
        rule,
    }
}
