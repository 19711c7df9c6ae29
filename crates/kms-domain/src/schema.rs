//! The `schemaVersion` of a file, read before its other members: a file of a newer release may
//! differ in all of them and still be intact.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// State document.
pub const STATE: &str = "keyregistry.openbao-kms/v1alpha2";
/// State document without a binding to a configuration.
pub(crate) const LEGACY_STATE: &str = "keyregistry.openbao-kms/v1alpha1";
/// Checkpoint of a state document.
pub const CHECKPOINT: &str = "keyregistry.openbao-kms/checkpoint/v1alpha1";
/// Backup record.
pub const RECORD: &str = "bao-kms-provider/backup-record/v1";
/// Recovery journal.
pub const JOURNAL: &str = "bao-kms-provider/recovery-journal/v1";

/// Maximum number of displayed characters; all schema versions of this release are shorter.
const MAX_SHOWN: usize = 64;

/// A schema version unknown to this release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NewerSchema(String);

impl fmt::Display for NewerSchema {
    /// Escapes control characters and truncates long text, because the file is untrusted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(MAX_SHOWN).collect();
        let cut = if shown.len() < self.0.len() {
            "..."
        } else {
            ""
        };
        write!(f, "written by a newer release (schema {shown:?}{cut})")
    }
}

/// Refuses a file with a schema version unknown to this release. All other files pass, including
/// those of another format and those without a schema version: strict decoding reports their
/// faults.
pub(crate) fn refuse_newer(bytes: &[u8]) -> Result<(), NewerSchema> {
    match schema_version(bytes) {
        Some(schema)
            if ![STATE, LEGACY_STATE, CHECKPOINT, RECORD, JOURNAL].contains(&schema.as_str()) =>
        {
            Err(NewerSchema(schema))
        }
        _ => Ok(()),
    }
}

/// The first member with that name, of any release. The rest of the file may be invalid JSON.
#[must_use]
pub fn schema_version(bytes: &[u8]) -> Option<String> {
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // The error is ignored: parsing stops at the member, before the end of the file.
    drop(json.deserialize_map(FirstMember(&mut found)));
    found
}

struct FirstMember<'a>(&'a mut Option<String>);

impl<'de> Visitor<'de> for FirstMember<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            if name == "schemaVersion" {
                return members.next_value_seed(Text(self.0));
            }
            members.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

struct Text<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        *self.0 = Some(text.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_schema_of_no_format_of_this_release_is_newer() {
        for newer in [
            r#"{"schemaVersion":"keyregistry.openbao-kms/v1beta1"}"#,
            r#"{"a":[{"schemaVersion":1}],"b":1e999,"schemaVersion":"x","generation":"one"}"#,
            r#" {"schemaVersion":"x","then":"the file breaks off"#,
            r#"{"schemaVersion":"x","schemaVersion":"keyregistry.openbao-kms/v1alpha2"}"#,
        ] {
            assert!(refuse_newer(newer.as_bytes()).is_err(), "{newer}");
        }
        for other in [
            r#"{"schemaVersion":"keyregistry.openbao-kms/v1alpha2","more":1}"#,
            r#"{"schemaVersion":"keyregistry.openbao-kms/v1alpha1"}"#,
            r#"{"schemaVersion":"bao-kms-provider/backup-record/v1"}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":null}"#,
            r#"{"inner":{"schemaVersion":"x"}}"#,
            r#"["schemaVersion","x"]"#,
            r#"{"schemaVersion":"x"#,
            "",
        ] {
            assert_eq!(refuse_newer(other.as_bytes()), Ok(()), "{other}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_without_control_characters() {
        let shown = NewerSchema(format!("a\n\u{1b}[31m{}", "x".repeat(1000))).to_string();
        assert!(!shown.contains(char::is_control), "{shown}");
        assert!(shown.ends_with("x\"...)") && shown.len() < 120, "{shown}");
        assert_eq!(
            NewerSchema("b/v2".to_owned()).to_string(),
            r#"written by a newer release (schema "b/v2")"#
        );
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            drop(refuse_newer(&bytes));
        }
    }
}
