//! An object as a manifest for `kubectl apply`.

mod decode;
mod definition;
mod descriptors;
mod json;
mod node;
mod special;
mod yaml;

use std::fmt::Write as _;

use etcd_snapshot::value::Encoding;

pub use decode::DecodeError;
pub use descriptors::Descriptors;
use node::Node;
pub use yaml::SecretText;

use node::Members;

/// Members of the metadata that the API server sets, or that `kubectl apply` writes again.
const SERVER_SET: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The annotation in which `kubectl apply` repeats the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Limit of a manifest in bytes, as a multiple of its object and a minimum. Real ones stay far below it:
/// only a forged object consists of indentation or of repeated schemas.
const MAX_GROWTH: usize = 32;
const MIN_LIMIT: usize = 1 << 20;

/// The content of an object without the members that the API server sets.
pub struct Manifest<'a> {
    members: Members<'a>,
    /// One line for each owner.
    owners: Vec<String>,
    /// Largest manifest in bytes.
    most: usize,
}

impl<'a> Manifest<'a> {
    /// Decodes the plaintext of an object.
    ///
    /// # Errors
    /// [`DecodeError`]: the object can be kept as stored bytes alone.
    pub fn decode(types: &'a Descriptors, plaintext: &'a [u8]) -> Result<Self, DecodeError> {
        let mut members = match Encoding::of(plaintext) {
            Some(Encoding::Protobuf) => decode::object(types, plaintext)?,
            Some(Encoding::Json) => match json::parse(plaintext) {
                Ok(Node::Map(members)) => members,
                _ => return Err(DecodeError::Json),
            },
            Some(Encoding::Cbor) => return Err(DecodeError::Encoding("CBOR".to_owned())),
            None => return Err(DecodeError::Encoding("an unknown format".to_owned())),
        };
        let most = plaintext.len().saturating_mul(MAX_GROWTH).max(MIN_LIMIT);
        definition::convert(&mut members, most)?;
        let owners = clean(&mut members);
        Ok(Self {
            members,
            owners,
            most,
        })
    }

    /// A text among the members: `apiVersion` or `kind`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let mut members = self.members.iter();
        let (_, value) = members.find(|(member, _)| member.as_str() == name)?;
        value.text()
    }

    /// Writes it as YAML, with `comment` in its first line.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`]: the object can be kept as stored bytes alone.
    pub fn yaml(&self, comment: &str) -> Result<SecretText, DecodeError> {
        let mut out = SecretText::limited(self.most);
        let written = self.write(comment, &mut out);
        written.map(|()| out).map_err(|_| DecodeError::TooLarge)
    }

    fn write(&self, comment: &str, out: &mut SecretText) -> std::fmt::Result {
        writeln!(out, "# {}", comment.escape_debug())?;
        for owner in &self.owners {
            writeln!(out, "# removed owner: {}", owner.escape_debug())?;
        }
        yaml::document(&self.members, out)
    }

    /// Whether both are the same object.
    #[must_use]
    pub fn equals(&self, other: &Manifest<'_>) -> bool {
        Node::Map(self.members.clone()).equals(&Node::Map(other.members.clone()))
    }
}

/// Removes the members that the API server sets, and returns the owners.
fn clean(members: &mut Members<'_>) -> Vec<String> {
    members.retain(|(name, _)| name.as_str() != "status");
    clean_claims(members);
    let Some(Node::Map(metadata)) = find(members, "metadata") else {
        return Vec::new();
    };
    let mut owners = Vec::new();
    for (name, value) in metadata.iter_mut() {
        match (name.as_str(), value) {
            ("ownerReferences", Node::List(references)) => {
                let text = |owner: &Node<'_>, name| {
                    let text = owner.get(name).and_then(|it| it.text().map(str::to_owned));
                    text.unwrap_or_default()
                };
                owners = references
                    .iter()
                    .map(|owner| {
                        let [kind, version, name] =
                            ["kind", "apiVersion", "name"].map(|it| text(owner, it));
                        format!("{kind} {name} of {version}")
                    })
                    .collect();
            }
            ("annotations", Node::Map(annotations)) => {
                annotations.retain(|(name, _)| name.as_str() != LAST_APPLIED);
            }
            _ => {}
        }
    }
    metadata.retain(|(name, value)| {
        let name = name.as_str();
        let emptied = matches!(value, Node::Map(members) if members.is_empty());
        let is_left_out = SERVER_SET.contains(&name) || (name == "annotations" && emptied);
        !is_left_out
    });
    owners
}

/// Removes what the API server adds to the templates of claims in a `StatefulSet` when it reads them.
fn clean_claims(members: &mut Members<'_>) {
    let Some(Node::Map(spec)) = find(members, "spec") else {
        return;
    };
    let Some(Node::List(claims)) = find(spec, "volumeClaimTemplates") else {
        return;
    };
    for claim in claims {
        if let Node::Map(claim) = claim {
            claim.retain(|(name, _)| !["apiVersion", "kind", "status"].contains(&name.as_str()));
        }
    }
}

/// A member of a map.
fn find<'n, 'a>(members: &'n mut Members<'a>, name: &str) -> Option<&'n mut Node<'a>> {
    let mut members = members.iter_mut();
    let (_, value) = members.find(|(member, _)| member.as_str() == name)?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        // A varint of three bytes for every length.
        let groups = [length & 127 | 128, length >> 7 & 127 | 128, length >> 14];
        let mut bytes = vec![number << 3 | 2];
        bytes.extend(groups.map(|group| u8::try_from(group).unwrap()));
        [&bytes, content].concat()
    }

    fn stored(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let kind = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [b"k8s\0", &field(1, &kind)[..], &field(2, object)].concat()
    }

    fn yaml(stored: &[u8]) -> String {
        let types = Descriptors::load().unwrap();
        let manifest = Manifest::decode(&types, stored).unwrap();
        let text = manifest.yaml("a\nb").unwrap();
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_manifest_has_what_its_owner_has_set() {
        let applied = [field(1, LAST_APPLIED.as_bytes()), field(2, b"{}")].concat();
        let metadata = [
            field(1, b"name"),
            field(3, b""),
            field(5, b"uid"),
            field(12, &applied),
            field(14, b"kept.example.org/finalizer"),
        ];
        let object = [
            field(1, &metadata.concat()),
            field(2, &[field(1, b"a"), field(2, b"\0\xff")].concat()),
            field(2, &[field(1, b"b"), field(2, b"")].concat()),
            vec![5 << 3, 0],
        ];
        assert_eq!(
            yaml(&stored("v1", "Secret", &object.concat())),
            "# a\\nb\napiVersion: v1\nkind: Secret\nmetadata:\n  name: name\n  finalizers:\n  - \
             kept.example.org/finalizer\nimmutable: false\ndata:\n  a: \"AP8=\"\n  b: \"\"\n"
        );
        assert_eq!(
            yaml(b"{\"kind\": \"W\", \"metadata\": {\"uid\": \"u\"}, \"status\": {\"a\": 1}, \"spec\": 1}"),
            "# a\\nb\nkind: W\nmetadata: {}\nspec: 1\n"
        );
    }

    #[test]
    fn an_object_that_is_not_understood_has_a_reason() {
        let types = Descriptors::load().unwrap();
        let reason = |stored: &[u8]| match Manifest::decode(&types, stored) {
            Ok(_) => panic!("it was decoded"),
            Err(error) => error.to_string(),
        };
        for (stored, expected) in [
            (
                stored("example.org/v1", "Odd", b""),
                "is unknown to this program",
            ),
            (stored("v1", "Secret", b"\x0a\x05"), "malformed"),
            (stored("v1", "Secret", &field(3, b"\xff")), "malformed"),
            (b"{\"a\": }".to_vec(), "invalid JSON"),
            (b"{} {}".to_vec(), "invalid JSON"),
            (b"\xd9\xd9\xf7\xa0".to_vec(), "CBOR"),
            (b"other".to_vec(), "unknown format"),
        ] {
            let found = reason(&stored);
            assert!(found.contains(expected), "{found}");
        }
        let deep = "[".repeat(200);
        assert!(reason(format!("{{\"a\": {deep}").as_bytes()).contains("invalid JSON"));
    }

    proptest! {
        #[test]
        fn no_object_ends_the_program(
            object in vec(any::<u8>(), 0..200),
            kind in prop::sample::select(vec![
                ("v1", "Pod"),
                ("v1", "Secret"),
                ("apps/v1", "Deployment"),
                ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
                ("coordination.k8s.io/v1", "Lease"),
            ]),
        ) {
            let types = Descriptors::load().unwrap();
            let stored = stored(kind.0, kind.1, &object);
            if let Ok(manifest) = Manifest::decode(&types, &stored) {
                let text = manifest.yaml("").unwrap();
                prop_assert!(std::str::from_utf8(text.as_bytes()).is_ok());
            }
        }
    }
}
