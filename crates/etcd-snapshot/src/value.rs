//! Protection of a stored value, detected from its first bytes, and the resource of its key.
//! Implements `docs/format/etcd-snapshot.md` section 5.

use std::fmt;

/// Protection of a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection<'a> {
    /// A KMS v2 plugin.
    KmsV2 {
        /// The name of the provider in the `EncryptionConfiguration`.
        provider: &'a str,
        /// The message for [`Envelope::parse`](crate::envelope::Envelope::parse).
        message: &'a [u8],
    },
    /// A KMS v1 plugin.
    KmsV1 {
        /// The name of the provider up to its first colon. Names in old configurations could
        /// contain more.
        provider: &'a str,
    },
    /// A key in the `EncryptionConfiguration` itself.
    Local {
        /// Its cipher.
        cipher: LocalCipher,
        /// The name of the key.
        key_name: &'a str,
    },
    /// Encrypted by an unknown transformer, or with a damaged prefix. Never count it as plaintext.
    Unknown,
    /// Unprotected.
    Plaintext(Encoding),
    /// Not an API object: a lease of the API server, an address allocation, a value of another etcd
    /// client.
    NotAnObject,
}

/// The ciphers for keys in the `EncryptionConfiguration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalCipher {
    /// AES in CBC mode.
    AesCbc,
    /// AES in Galois counter mode.
    AesGcm,
    /// XSalsa20 and Poly1305.
    Secretbox,
}

/// Encoding of an API object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// The protobuf envelope of Kubernetes.
    Protobuf,
    /// JSON, used for custom resources.
    Json,
    /// CBOR, where enabled.
    Cbor,
}

const ENCRYPTED: &[u8] = b"k8s:enc:";

impl<'a> Protection<'a> {
    /// Detects the protection from the first bytes of a stored value.
    #[must_use]
    pub fn of(value: &'a [u8]) -> Self {
        let Some(transformer) = value.strip_prefix(ENCRYPTED) else {
            return Encoding::of(value).map_or(Self::NotAnObject, Self::Plaintext);
        };
        let local = |cipher, rest| name(rest).map(|(key_name, _)| Self::Local { cipher, key_name });
        let known = if let Some(rest) = transformer.strip_prefix(b"kms:v2:") {
            name(rest).map(|(provider, message)| Self::KmsV2 { provider, message })
        } else if let Some(rest) = transformer.strip_prefix(b"kms:v1:") {
            name(rest).map(|(provider, _)| Self::KmsV1 { provider })
        } else if let Some(rest) = transformer.strip_prefix(b"aescbc:v1:") {
            local(LocalCipher::AesCbc, rest)
        } else if let Some(rest) = transformer.strip_prefix(b"aesgcm:v1:") {
            local(LocalCipher::AesGcm, rest)
        } else if let Some(rest) = transformer.strip_prefix(b"secretbox:v1:") {
            local(LocalCipher::Secretbox, rest)
        } else {
            None
        };
        known.unwrap_or(Self::Unknown)
    }
}

impl Encoding {
    /// Encoding of an API object in plaintext; `None` for other values.
    #[must_use]
    pub fn of(plaintext: &[u8]) -> Option<Self> {
        match plaintext {
            [b'k', b'8', b's', 0, ..] => Some(Self::Protobuf),
            [b'{', ..] => Some(Self::Json),
            [0xd9, 0xd9, 0xf7, ..] => Some(Self::Cbor),
            _ => None,
        }
    }
}

/// The name before the first colon, and the bytes after the colon.
fn name(rest: &[u8]) -> Option<(&str, &[u8])> {
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let (name, rest) = rest.split_at_checked(colon)?;
    let name = std::str::from_utf8(name).ok()?;
    let rest = rest.strip_prefix(b":")?;
    (!name.is_empty()).then_some((name, rest))
}

/// The resource of a key in the notation of `kubectl`: `secrets`, `widgets.example.org`. For
/// display only, and only as accurate as the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource<'a> {
    name: &'a str,
    group: Option<&'a str>,
}

impl<'a> Resource<'a> {
    /// Parses the key of an object below `prefix`, the `--etcd-prefix` of the API server with a
    /// leading slash. Without `prefix`, the first part of the key is taken, such as `/registry`.
    #[must_use]
    pub fn of(key: &'a [u8], prefix: Option<&str>) -> Option<Self> {
        Self::split(key, prefix).map(|(resource, _)| resource)
    }

    /// Also the rest of the key: `NAMESPACE/NAME`, or `NAME` without a namespace.
    #[must_use]
    pub fn split(key: &'a [u8], prefix: Option<&str>) -> Option<(Self, &'a str)> {
        let key = std::str::from_utf8(key).ok()?;
        let path = match prefix {
            Some(prefix) => key.strip_prefix(prefix)?.strip_prefix('/')?,
            None => key.strip_prefix('/')?.split_once('/')?.1,
        };
        let (first, path) = next_part(path)?;
        let (second, rest) = next_part(path)?;
        // Only a group has a dot in its name.
        if first.contains('.') {
            let group = Some(first);
            return Some((
                Self {
                    name: second,
                    group,
                },
                rest,
            ));
        }
        let (name, rest) = match (first, second) {
            ("services", "specs") => ("services", rest),
            ("services", "endpoints") => ("endpoints", rest),
            ("minions", _) => ("nodes", path),
            ("controllers", _) => ("replicationcontrollers", path),
            ("ingress", _) => ("ingresses", path),
            (resource, _) => (resource, path),
        };
        Some((Self { name, group: None }, rest))
    }

    /// Name of the resource, in the plural.
    #[must_use]
    pub fn name(self) -> &'a str {
        self.name
    }

    /// API group, if the key has one.
    #[must_use]
    pub fn group(self) -> Option<&'a str> {
        self.group
    }

    /// Appends the displayed name to `text`.
    pub fn append_to(self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.name.as_bytes());
        if let Some(group) = self.group {
            text.push(b'.');
            text.extend_from_slice(group.as_bytes());
        }
    }
}

/// The first part of a path, and the rest after its slashes.
fn next_part(path: &str) -> Option<(&str, &str)> {
    let path = path.trim_start_matches('/');
    let (part, rest) = path.split_once('/').unwrap_or((path, ""));
    (!part.is_empty()).then(|| (part, rest.trim_start_matches('/')))
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.group {
            Some(group) => write!(f, ".{group}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protection() {
        let local = |cipher| Protection::Local {
            cipher,
            key_name: "key1",
        };
        for (value, protection) in [
            (
                &b"k8s:enc:kms:v2:bao:\x0a\x01:"[..],
                Protection::KmsV2 {
                    provider: "bao",
                    message: b"\x0a\x01:",
                },
            ),
            (
                b"k8s:enc:kms:v2:bao:",
                Protection::KmsV2 {
                    provider: "bao",
                    message: b"",
                },
            ),
            (
                b"k8s:enc:kms:v1:old:\x00\x02..",
                Protection::KmsV1 { provider: "old" },
            ),
            (b"k8s:enc:aescbc:v1:key1:..", local(LocalCipher::AesCbc)),
            (b"k8s:enc:aesgcm:v1:key1:..", local(LocalCipher::AesGcm)),
            (
                b"k8s:enc:secretbox:v1:key1:..",
                local(LocalCipher::Secretbox),
            ),
            (b"k8s:enc:", Protection::Unknown),
            (b"k8s:enc:kms:v3:bao:", Protection::Unknown),
            (b"k8s:enc:aescbc:v2:key1:", Protection::Unknown),
            (b"k8s:enc:kms:v2:cut-off", Protection::Unknown),
            (b"k8s:enc:kms:v2::\x0a", Protection::Unknown),
            (b"k8s:enc:kms:v2:\xff:\x0a", Protection::Unknown),
            (b"k8s\0\x0a", Protection::Plaintext(Encoding::Protobuf)),
            (b"{}", Protection::Plaintext(Encoding::Json)),
            (b"\xd9\xd9\xf7\xa0", Protection::Plaintext(Encoding::Cbor)),
            (b"k8s", Protection::NotAnObject),
            (b"k8s:encrypted", Protection::NotAnObject),
            (b"", Protection::NotAnObject),
            (b"42", Protection::NotAnObject),
        ] {
            let shown = value.escape_ascii();
            assert_eq!(Protection::of(value), protection, "{shown}");
        }
    }

    #[test]
    fn a_key_names_its_resource() {
        for (key, prefix, resource) in [
            ("/registry/secrets/default/demo", None, Some("secrets")),
            ("/registry/minions/node-1", None, Some("nodes")),
            ("/registry/services/specs/default/a", None, Some("services")),
            (
                "/registry/services/endpoints/default/a",
                None,
                Some("endpoints"),
            ),
            ("/registry/ingress/default/a", None, Some("ingresses")),
            (
                "/registry/example.org/widgets/default/a",
                None,
                Some("widgets.example.org"),
            ),
            ("/kubernetes.io/secrets/a/b", None, Some("secrets")),
            ("/k8s/one/secrets/a/b", Some("/k8s/one"), Some("secrets")),
            ("/k8s/one/secrets/a/b", Some("/k8s/on"), None),
            ("/registry//secrets/a", None, Some("secrets")),
            ("/registry/secrets", None, None),
            ("secrets", None, None),
            ("", None, None),
        ] {
            let found = Resource::of(key.as_bytes(), prefix);
            let shown = found.map(|found| found.to_string());
            assert_eq!(shown.as_deref(), resource, "{key}");
            let mut text = Vec::new();
            found
                .unwrap_or(Resource {
                    name: "",
                    group: None,
                })
                .append_to(&mut text);
            assert_eq!(text, shown.unwrap_or_default().as_bytes(), "{key}");
        }
        assert_eq!(Resource::of(b"/registry/\xff/a", None), None);
    }

    #[test]
    fn a_key_ends_with_the_name_of_its_object() {
        for (key, rest) in [
            ("/registry/secrets/default/demo", "default/demo"),
            ("/registry/minions/node-1", "node-1"),
            ("/registry/services/specs/default/a", "default/a"),
            ("/registry/example.org/widgets/default/a", "default/a"),
            ("/registry/example.org/gadgets/a", "a"),
            ("/registry/clusterroles/system:a", "system:a"),
            ("/registry//secrets//a//b", "a//b"),
        ] {
            let (_, found) = Resource::split(key.as_bytes(), Some("/registry")).unwrap();
            assert_eq!(found, rest, "{key}");
        }
    }
}
