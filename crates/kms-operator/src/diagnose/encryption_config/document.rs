//! Keys and types of the file, as defined by `apiserver.config.k8s.io/v1`.
//!
//! kube-apiserver decodes strictly: keys are case-sensitive, unknown and repeated keys are errors,
//! and a text must be neither a number nor a boolean. `null` equals an absent value.
//!
//! Names and secrets of keys are measured, then dropped. The YAML parser makes copies of them
//! outside our control; they are never printed.

use std::time::Duration;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use kms_node::duration::parse_positive;
use zeroize::Zeroizing;

use super::{
    endpoint::{self, Refused},
    json, scalar,
    value::{At, Key as Name, Malformed, Node, Value},
    yaml,
};

/// Base64 as in Go: unused bits of the last character may have any value.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The document used by kube-apiserver, the first one in the file.
pub(super) struct Document {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) entries: Vec<Entry>,
    /// Line of the content after this document.
    pub(super) rest: Option<u64>,
}

/// Resources with their providers.
pub(super) struct Entry {
    pub(super) line: Option<u64>,
    pub(super) resources: Vec<String>,
    pub(super) providers: Vec<Element>,
}

/// Element of a provider list. A valid one has exactly one kind.
pub(super) struct Element {
    pub(super) line: Option<u64>,
    pub(super) kinds: Vec<Provider>,
}

/// The first provider of a list encrypts; all of them decrypt.
pub(super) enum Provider {
    Kms(Kms),
    Identity,
    /// Local keys in the file.
    Local {
        kind: &'static str,
        /// Allowed key sizes in bytes.
        sizes: &'static [usize],
        keys: Vec<Key>,
    },
}

/// A KMS plugin behind a socket.
pub(super) struct Kms {
    api_version: String,
    name: String,
    endpoint: String,
    pub(super) cache_size: Option<i32>,
    timeout: Option<Zeroizing<String>>,
}

/// A key in the file, without its content.
pub(super) struct Key {
    pub(super) name: Measured,
    pub(super) secret: Measured,
}

/// Printable properties of a secret text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Measured {
    Empty,
    /// Valid Base64 of this number of bytes.
    Base64(usize),
    Other,
}

/// Version of the API between kube-apiserver and the plugin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KmsVersion {
    V1,
    V2,
}

/// Default of kube-apiserver.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

impl Kms {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `None` for an unknown version. The default is v1.
    pub(super) fn version(&self) -> Option<KmsVersion> {
        match self.api_version.as_str() {
            "" | "v1" => Some(KmsVersion::V1),
            "v2" => Some(KmsVersion::V2),
            _ => None,
        }
    }

    /// Path of the socket for kube-apiserver's connection.
    ///
    /// # Errors
    /// Reason for kube-apiserver's rejection of the endpoint.
    pub(super) fn socket(&self) -> Result<Vec<u8>, Refused> {
        endpoint::socket(&self.endpoint)
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// kube-apiserver's timeout for a call.
    ///
    /// # Errors
    /// The violated rule, without the value.
    pub(super) fn timeout(&self) -> Result<Duration, String> {
        let timeout = self.timeout.as_deref();
        timeout
            .map_or(Ok(DEFAULT_TIMEOUT), |text| parse_positive(text))
            .map_err(|problem| problem.to_string())
    }
}

/// Parses the document. Unknown keys are errors.
pub(super) fn parse(text: &str) -> Result<Document, Malformed> {
    let (root, rest) = if json::is_json(text) {
        (json::parse(text)?, None)
    } else {
        let stream = yaml::parse(text)?;
        (stream.root, stream.rest)
    };
    let [api_version, kind, entries] = fields(root, ["apiVersion", "kind", "resources"])?;
    Ok(Document {
        api_version: text_of(api_version)?,
        kind: text_of(kind)?,
        entries: list_of(entries, entry)?,
        rest: rest.map(|at| at.line),
    })
}

fn entry(node: Node) -> Result<Entry, Malformed> {
    let line = line(&node);
    let [resources, providers] = fields(node, ["resources", "providers"])?;
    Ok(Entry {
        line,
        resources: list_of(resources, |node| text_of(Some(node)))?,
        providers: list_of(providers, element)?,
    })
}

fn element(node: Node) -> Result<Element, Malformed> {
    let line = line(&node);
    let [kms_node, identity, aescbc, aesgcm, secretbox] =
        fields(node, ["kms", "identity", "aescbc", "aesgcm", "secretbox"])?;
    let mut kinds = Vec::new();
    if let Some(node) = kms_node {
        kinds.push(Provider::Kms(kms(node)?));
    }
    if let Some(node) = identity {
        let [] = fields(node, [])?;
        kinds.push(Provider::Identity);
    }
    for (kind, sizes, node) in [
        ("aescbc", &[16, 24, 32][..], aescbc),
        ("aesgcm", &[16, 24, 32], aesgcm),
        ("secretbox", &[32], secretbox),
    ] {
        if let Some(node) = node {
            let [keys] = fields(node, ["keys"])?;
            let keys = list_of(keys, key)?;
            kinds.push(Provider::Local { kind, sizes, keys });
        }
    }
    Ok(Element { line, kinds })
}

fn kms(node: Node) -> Result<Kms, Malformed> {
    let [api_version, name, endpoint, cache_size, timeout] = fields(
        node,
        ["apiVersion", "name", "endpoint", "cachesize", "timeout"],
    )?;
    let cache_size = match cache_size {
        None => None,
        Some(Node {
            value: Value::Number(Some(size)),
            ..
        }) => Some(size),
        Some(other) => return Err(wrong_type(other.at)),
    };
    let timeout = timeout.map(secret_text).transpose()?;
    Ok(Kms {
        api_version: text_of(api_version)?,
        name: text_of(name)?,
        endpoint: text_of(endpoint)?,
        cache_size,
        timeout,
    })
}

fn key(node: Node) -> Result<Key, Malformed> {
    let [name, secret] = fields(node, ["name", "secret"])?;
    let measured = |part: Option<Node>| {
        let text = part.map(secret_text).transpose()?;
        Ok(text.map_or(Measured::Empty, |text| Measured::of(&text)))
    };
    Ok(Key {
        name: measured(name)?,
        secret: measured(secret)?,
    })
}

/// Values of an object, by key. `null` counts as an absent value or an empty object.
fn fields<const N: usize>(node: Node, known: [&str; N]) -> Result<[Option<Node>; N], Malformed> {
    let entries = match node.value {
        Value::Map(entries) => entries,
        Value::Null => Vec::new(),
        _ => return Err(wrong_type(node.at)),
    };
    let mut found = [const { None }; N];
    let mut seen = [false; N];
    for (Name { at, name }, node) in entries {
        let mut places = known.iter().zip(found.iter_mut().zip(&mut seen));
        let place = places.find(|(known, _)| name.as_deref().is_some_and(|name| name == *known));
        let Some((_, (slot, seen))) = place else {
            let rule = match known.len() {
                0 => "a key where there is none".to_owned(),
                _ => format!("unknown key; known here: {}", known.join(", ")),
            };
            return Err(Malformed::new(at, rule));
        };
        if std::mem::replace(seen, true) {
            return Err(Malformed::new(at, "a key that is written twice"));
        }
        *slot = Some(node).filter(|node| !matches!(node.value, Value::Null));
    }
    Ok(found)
}

fn list_of<T>(
    node: Option<Node>,
    element: impl FnMut(Node) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    match node {
        None => Ok(Vec::new()),
        Some(Node {
            value: Value::List(elements),
            ..
        }) => elements.into_iter().map(element).collect(),
        Some(other) => Err(wrong_type(other.at)),
    }
}

/// Text of a value; empty if absent.
fn text_of(node: Option<Node>) -> Result<String, Malformed> {
    let text = node.map(secret_text).transpose()?;
    Ok(text.map_or_else(String::new, |text| text.to_string()))
}

fn secret_text(node: Node) -> Result<Zeroizing<String>, Malformed> {
    match node.value {
        Value::Text(text) => Ok(text),
        Value::Null => Ok(Zeroizing::default()),
        Value::Bool | Value::Number(_) => Err(Malformed::new(
            node.at,
            "a number or a boolean where a text must stand; put it in quotes if it is one",
        )),
        Value::List(_) | Value::Map(_) => Err(wrong_type(node.at)),
    }
}

fn wrong_type(at: Option<At>) -> Malformed {
    Malformed::new(at, "a value of another type than it must have here")
}

fn line(node: &Node) -> Option<u64> {
    node.at.map(|at| at.line)
}

impl Measured {
    fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self::Empty;
        }
        let bytes = BASE64
            .decode(&*scalar::without_breaks(text))
            .map(Zeroizing::new);
        bytes.map_or(Self::Other, |bytes| Self::Base64(bytes.len()))
    }
}
