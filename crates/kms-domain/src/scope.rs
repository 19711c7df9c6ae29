//! The names of a key lineage.
//! Implements `docs/format/key-id.md` section 1.
//!
//! Every constructed name follows its rule. Its bytes are used exactly as configured, without
//! Unicode normalisation or case folding.

use std::fmt;

/// Rule violated by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// Empty, or only white space.
    #[error("must not be empty")]
    Blank,
    /// Leading or trailing Unicode white space.
    #[error("must not begin or end with white space")]
    SurroundingWhitespace,
    /// NUL, CR, LF or TAB anywhere.
    #[error("must not contain NUL, carriage return, line feed or tab")]
    ControlCharacter,
    /// A path that begins with `/`.
    #[error("must not begin with '/'")]
    LeadingSlash,
    /// A path with an empty, `.` or `..` segment (so also a trailing `/`).
    #[error("must not have an empty, '.' or '..' path segment")]
    PathSegment,
    /// A character with a meaning in URLs, since the value becomes part of one.
    #[error("must not contain '%', '?', '#', '\\' or white space, since it becomes part of a URL")]
    UrlCharacter,
    /// A Transit key name outside its pattern.
    #[error("must match [A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")]
    NamePattern,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $rule:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks the rule and keeps the text unchanged.
            ///
            /// # Errors
            /// The first violated rule.
            pub fn parse(text: &str) -> Result<Self, NameProblem> {
                $rule(text)?;
                Ok(Self(text.to_owned()))
            }

            /// The text exactly as configured.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The KMS provider's name in the API server's `EncryptionConfiguration`.
    ProviderName,
    identifier
);
name_type!(
    /// The protected cluster.
    ClusterId,
    identifier
);
name_type!(
    /// The OpenBao installation that holds the key.
    OpenBaoInstanceId,
    identifier
);
name_type!(
    /// An opaque label of the Transit mount, independent of its path.
    TransitMountId,
    identifier
);
name_type!(
    /// Names one history of key material: a key recreated under an old name is a new lineage.
    KeyLineageId,
    identifier
);
name_type!(
    /// A non-empty OpenBao namespace, such as `admin/team`.
    Namespace,
    namespace
);
name_type!(
    /// The mount path of a secrets engine or auth method, such as `transit`.
    MountPath,
    mount_path
);
name_type!(
    /// The Transit key's name; auth role names have the same pattern.
    KeyName,
    key_name
);

/// The names in every `key_id`, annotation set and associated data.
///
/// Do not change a field once data is encrypted: existing data becomes unreadable until the change
/// is reverted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityScope {
    /// See [`ProviderName`].
    pub provider_name: ProviderName,
    /// See [`ClusterId`].
    pub cluster_id: ClusterId,
    /// See [`OpenBaoInstanceId`].
    pub openbao_instance_id: OpenBaoInstanceId,
    /// `None` is the root namespace, which the formats omit.
    pub openbao_namespace: Option<Namespace>,
    /// See [`TransitMountId`].
    pub transit_mount_id: TransitMountId,
    /// See [`KeyLineageId`].
    pub key_lineage_id: KeyLineageId,
}

/// Path of the Transit key: part of the identity fingerprint, absent from the `key_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitKeyPath {
    /// The Transit mount.
    pub mount_path: MountPath,
    /// The key below the mount.
    pub key_name: KeyName,
}

/// Rule I: not blank, without surrounding white space, NUL, CR, LF or TAB.
fn identifier(text: &str) -> Result<(), NameProblem> {
    if text.trim().is_empty() {
        return Err(NameProblem::Blank);
    }
    if text.trim() != text {
        return Err(NameProblem::SurroundingWhitespace);
    }
    if text.contains(['\0', '\r', '\n', '\t']) {
        return Err(NameProblem::ControlCharacter);
    }
    Ok(())
}

/// Rule N: rule I, a relative path, and without `%`.
fn namespace(text: &str) -> Result<(), NameProblem> {
    identifier(text)?;
    relative_path(text)?;
    if text.contains('%') {
        return Err(NameProblem::UrlCharacter);
    }
    Ok(())
}

fn mount_path(text: &str) -> Result<(), NameProblem> {
    identifier(text)?;
    relative_path(text)?;
    if text.contains(|c: char| matches!(c, '%' | '?' | '#' | '\\') || c.is_whitespace()) {
        return Err(NameProblem::UrlCharacter);
    }
    Ok(())
}

fn relative_path(text: &str) -> Result<(), NameProblem> {
    if text.starts_with('/') {
        return Err(NameProblem::LeadingSlash);
    }
    if text
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return Err(NameProblem::PathSegment);
    }
    Ok(())
}

fn key_name(text: &str) -> Result<(), NameProblem> {
    if text.trim().is_empty() {
        return Err(NameProblem::Blank);
    }
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()]
        .into_iter()
        .flatten()
        .all(|&c| word(c));
    if ends && bytes.iter().all(|&c| word(c) || matches!(c, b'.' | b'-')) {
        Ok(())
    } else {
        Err(NameProblem::NamePattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_everything_but_separators_and_outer_space() {
        for good in [
            "a",
            "a b",
            "a<b>&c",
            "\"quoted\"",
            "näme",
            "a\u{7f}b",
            "x\u{1}y",
        ] {
            assert_eq!(ClusterId::parse(good).unwrap().as_str(), good);
        }
        for (bad, problem) in [
            ("", NameProblem::Blank),
            (" \u{a0}", NameProblem::Blank),
            (" a", NameProblem::SurroundingWhitespace),
            ("a\u{2003}", NameProblem::SurroundingWhitespace),
            ("a\0b", NameProblem::ControlCharacter),
            ("a\tb", NameProblem::ControlCharacter),
        ] {
            assert_eq!(ClusterId::parse(bad), Err(problem), "{bad:?}");
        }
    }

    #[test]
    fn a_namespace_is_a_clean_relative_path() {
        for good in ["admin", "admin/workload-a", "a b/c"] {
            assert!(Namespace::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["/a", "a/", "a//b", "a/./b", "..", "a%2fb", "", " a"] {
            assert!(Namespace::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mount_path_cannot_change_the_url_around_it() {
        for good in ["transit", "k8s/transit", "auth/jwt-1"] {
            assert!(MountPath::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "/transit", "transit/", "a//b", "a/../b", "a?b", "a#b", "a%b", "a\\b", "a b",
        ] {
            assert!(MountPath::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_name_begins_and_ends_with_a_word_character() {
        for good in ["a", "_", "k8s-etcd", "a.b-c_d"] {
            assert!(KeyName::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", "-a", "a.", "a/b", "a b", "ä"] {
            assert!(KeyName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
