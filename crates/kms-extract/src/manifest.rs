//! An object as a manifest for `kubectl`.

mod clean;
mod decode;
mod definition;
mod descriptors;
mod json;
mod node;
mod special;
mod yaml;

use std::{collections::BTreeSet, fmt::Write as _};

use etcd_snapshot::value::Encoding;

pub use decode::DecodeError;
pub use descriptors::Descriptors;
use node::{Empty, Node};
pub use yaml::SecretText;

use node::Members;

/// Limit of a manifest in bytes, as a multiple of its object and a minimum. Real ones stay far below it:
/// only a forged object consists of indentation or of repeated schemas.
const MAX_GROWTH: usize = 32;
const MIN_LIMIT: usize = 1 << 20;

/// The content of an object without the members that the API server sets.
pub struct Manifest<'a> {
    members: Members<'a>,
    /// A text for each owner.
    owners: Vec<String>,
    /// Names of the fields that the types of this program lack.
    unknown: BTreeSet<String>,
    /// Whether it was stored in protobuf, which does not have empty lists.
    is_protobuf: bool,
    /// Largest manifest in bytes.
    most: usize,
}

impl<'a> Manifest<'a> {
    /// Decodes the plaintext of an object.
    ///
    /// # Errors
    /// [`DecodeError`]: the object can be kept as stored bytes alone.
    pub fn decode(types: &'a Descriptors, plaintext: &'a [u8]) -> Result<Self, DecodeError> {
        let encoding = Encoding::of(plaintext);
        let (mut members, unknown) = match encoding {
            Some(Encoding::Protobuf) => decode::object(types, plaintext)?,
            Some(Encoding::Json) => match json::parse(plaintext) {
                Ok(Node::Map(members)) => (members, BTreeSet::new()),
                _ => return Err(DecodeError::Json),
            },
            Some(Encoding::Cbor) => return Err(DecodeError::Encoding("CBOR".to_owned())),
            None => return Err(DecodeError::Encoding("an unknown format".to_owned())),
        };
        let most = plaintext.len().saturating_mul(MAX_GROWTH).max(MIN_LIMIT);
        definition::convert(&mut members, most)?;
        let owners = clean::clean(&mut members);
        Ok(Self {
            members,
            owners,
            unknown,
            is_protobuf: encoding == Some(Encoding::Protobuf),
            most,
        })
    }

    /// A text among the members: `apiVersion` or `kind`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.member(name)?.text()
    }

    /// A text in the metadata: `name` or `namespace`.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.member("metadata")?.get(name)?.text()
    }

    /// Fields of the object that the manifest lacks, since this program does not know them.
    #[must_use]
    pub const fn unknown(&self) -> &BTreeSet<String> {
        &self.unknown
    }

    fn member(&self, name: &str) -> Option<&Node<'a>> {
        let mut members = self.members.iter();
        members
            .find(|(member, _)| member.as_str() == name)
            .map(|(_, value)| value)
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
        for field in &self.unknown {
            writeln!(
                out,
                "# missing, since it is unknown to bao-kms-provider: {field}"
            )?;
        }
        yaml::document(&self.members, out)
    }

    /// Whether a live object is the same as this stored one.
    #[must_use]
    pub fn equals(&self, live: &Manifest<'_>) -> bool {
        let empty = match self.is_protobuf {
            true => Empty::Lists,
            false => Empty::Null,
        };
        node::same_members(&self.members, &live.members, empty)
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
        let applied = [
            field(1, b"kubectl.kubernetes.io/last-applied-configuration"),
            field(2, b"{}"),
        ]
        .concat();
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
             kept.example.org/finalizer\nimmutable: false\ndata:\n  a: AP8=\n  b: \"\"\n"
        );
        assert_eq!(
            yaml(b"{\"kind\": \"W\", \"metadata\": {\"uid\": \"u\"}, \"status\": {\"a\": 1}, \"spec\": 1}"),
            "# a\\nb\nkind: W\nmetadata: {}\nspec: 1\n"
        );
    }

    /// The YAML of JSON without the first line.
    fn yaml_of(json: &str) -> String {
        yaml(json.as_bytes()).split_off("# a\\nb\n".len())
    }

    #[test]
    fn a_volume_forgets_the_identity_of_its_claim() {
        let bound = "\"pv.kubernetes.io/bind-completed\": \"yes\", \
                     \"pv.kubernetes.io/bound-by-controller\": \"yes\"";
        assert_eq!(
            yaml_of(&format!(
                "{{\"kind\": \"PersistentVolume\", \"metadata\": {{\"annotations\": {{{bound}}}}}, \
                 \"spec\": {{\"claimRef\": {{\"name\": \"data\", \"uid\": \"u\", \"resourceVersion\": \"7\"}}}}}}"
            )),
            "kind: PersistentVolume\nmetadata: {}\nspec:\n  claimRef:\n    name: data\n"
        );
        assert_eq!(
            yaml_of(&format!(
                "{{\"kind\": \"PersistentVolumeClaim\", \"metadata\": {{\"annotations\": {{{bound}, \"a\": \"b\"}}}}}}"
            )),
            "kind: PersistentVolumeClaim\nmetadata:\n  annotations:\n    a: b\n"
        );
        assert_eq!(
            yaml_of(
                "{\"kind\": \"VolumeSnapshotContent\", \"spec\": {\"volumeSnapshotRef\": {\"uid\": \"u\"}}}"
            ),
            "kind: VolumeSnapshotContent\nspec:\n  volumeSnapshotRef: {}\n"
        );
    }

    #[test]
    fn a_job_gets_a_new_selector_unless_its_owner_set_it() {
        let job = |manual: &str| {
            yaml_of(&format!(
                "{{\"kind\": \"Job\", \"spec\": {{{manual}\"selector\": {{}}, \"template\": {{\"metadata\": \
                 {{\"labels\": {{\"job-name\": \"j\", \"batch.kubernetes.io/controller-uid\": \"u\", \"a\": \"b\"}}}}}}}}}}"
            ))
        };
        let template = "  template:\n    metadata:\n      labels:\n";
        assert_eq!(
            job(""),
            format!("kind: Job\nspec:\n{template}        a: b\n")
        );
        let kept = job("\"manualSelector\": true, ");
        assert!(
            kept.contains("selector: {}") && kept.contains("job-name: j"),
            "{kept}"
        );
    }

    #[test]
    fn a_field_of_a_newer_kubernetes_is_named() {
        let types = Descriptors::load().unwrap();
        let spec = field(2, &field(15, b"new"));
        let stored = stored("networking.k8s.io/v1", "NetworkPolicy", &spec);
        let manifest = Manifest::decode(&types, &stored).unwrap();
        let text = manifest.yaml("").unwrap();
        let text = String::from_utf8_lossy(text.as_bytes());
        let expected =
            "# missing, since it is unknown to bao-kms-provider: field 15 of NetworkPolicySpec\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn an_absent_member_is_an_empty_one_as_far_as_the_encoding_loses_it() {
        let types = Descriptors::load().unwrap();
        let role = stored("rbac.authorization.k8s.io/v1", "Role", b"");
        let shown = |rules: &str| {
            format!(
                "{{\"apiVersion\": \"rbac.authorization.k8s.io/v1\", \"kind\": \"Role\"{rules}}}"
            )
        };
        let same = |one: &[u8], two: &str| {
            let one = Manifest::decode(&types, one).unwrap();
            one.equals(&Manifest::decode(&types, shown(two).as_bytes()).unwrap())
        };
        for (rules, expected) in [
            ("", true),
            (", \"rules\": null", true),
            (", \"rules\": []", true),
            (", \"rules\": [{}]", false),
            (", \"rules\": {}", false),
        ] {
            assert_eq!(same(&role, rules), expected, "{rules}");
        }
        assert!(!same(shown("").as_bytes(), ", \"rules\": []"));
        assert!(same(shown("").as_bytes(), ", \"rules\": null"));
    }

    #[test]
    fn times_reach_to_the_end_of_the_years() {
        let seconds = [&[1 << 3][..], b"\xff\x82\xd1\xff\xaf\x07"].concat();
        let spec = field(2, &field(3, &seconds));
        let text = yaml(&stored("coordination.k8s.io/v1", "Lease", &spec));
        assert!(
            text.contains("acquireTime: \"9999-12-31T23:59:59.000000Z\""),
            "{text}"
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
