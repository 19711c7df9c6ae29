//! Unread keys of a running etcd: access was denied, or the operator limited the reading to one
//! prefix. They may include objects of this provider.

use std::collections::BTreeMap;

use kms_node::{
    advice::{Found, evidence},
    report::{CheckName, CheckResult},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{prefix::is_below, truncated::few};

/// Unread keys of a running etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unread {
    /// Prefix with all keys read.
    pub below: String,
    /// Number of keys outside it, at least 1; absent if etcd refuses to count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Number of keys per prefix; incomplete for more than 100 prefixes.
    pub prefixes: BTreeMap<String, u64>,
    /// Prefixes from `--allow-unread-prefixes`.
    pub allowed: Vec<String>,
}

impl Unread {
    /// Whether the operator allows all of these keys to stay unread. If etcd refuses to count them,
    /// any list of prefixes is sufficient.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        let named = |prefix: &str| {
            let prefix = format!("/{}", prefix.trim_start_matches('/'));
            let mut allowed = self.allowed.iter();
            allowed.any(|allowed| prefix == *allowed || is_below(prefix.as_bytes(), allowed))
        };
        match self.keys {
            None => !self.allowed.is_empty(),
            Some(keys) => {
                let named = self.prefixes.iter().filter(|(prefix, _)| named(prefix));
                named.fold(0, |sum: u64, (_, keys)| sum.saturating_add(*keys)) >= keys
            }
        }
    }

    /// Description of the keys, as a sentence without a full stop.
    #[must_use]
    pub fn describe(&self) -> String {
        let below = &self.below;
        let Some(keys) = self.keys else {
            return format!(
                "the keys outside {below} were left unread: etcd permits this user neither to \
                 read nor to count them"
            );
        };
        let by = self.prefixes.iter();
        let by: Vec<_> = by
            .map(|(prefix, keys)| format!("{prefix} {keys}"))
            .collect();
        format!(
            "{keys} keys outside {below} were left unread: {}",
            few(&by, 0)
        )
    }

    /// Cause, and the values of its steps. `unbounded` is the command line without the limit to a
    /// prefix.
    #[must_use]
    pub fn cause(&self, source: &str, unbounded: Option<&str>) -> Found {
        let names: Vec<_> = self.prefixes.keys().map(String::as_str).collect();
        let names = match names.is_empty() {
            true => "PREFIX,...".to_owned(),
            false => names.join(","),
        };
        let read = match (self.keys, unbounded) {
            (None, _) => ("refusing", source.to_owned()),
            (Some(_), Some(command)) => ("unbounded", command.to_owned()),
            (Some(_), None) => ("below", self.below.clone()),
        };
        (&evidence::KEYS_UNREAD, vec![read, ("unread", names)])
    }

    /// Check result for an informational report.
    #[must_use]
    pub fn warning(&self) -> CheckResult {
        UNREAD
            .warn(self.describe())
            .impact("objects among them are not counted")
            .code(evidence::KEYS_UNREAD.code)
    }

    /// Check result for a report with a decision.
    #[must_use]
    pub fn check(&self) -> CheckResult {
        if self.is_allowed() {
            return self.warning();
        }
        UNREAD
            .fail(self.describe())
            .impact("objects among them may need any version of this key")
            .code(evidence::KEYS_UNREAD.code)
    }
}

/// Identifier and title of the check. Stable.
const UNREAD: CheckName = CheckName("etcd.unread", "Keys outside the prefix");

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(keys: Option<u64>, prefixes: &[(&str, u64)], allowed: &[&str]) -> Unread {
        let prefixes = prefixes.iter();
        Unread {
            below: "/registry".to_owned(),
            keys,
            prefixes: prefixes
                .map(|(name, keys)| ((*name).to_owned(), *keys))
                .collect(),
            allowed: allowed.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn every_unread_prefix_must_be_allowed_by_name() {
        let two = [("/openshift.io", 2), ("/other/one", 3)];
        for (keys, prefixes, allowed, holds) in [
            (Some(5), &two[..], &[][..], false),
            (Some(5), &two, &["/openshift.io"], false),
            (Some(5), &two, &["/openshift.io", "/other/one"], true),
            (Some(5), &two, &["/openshift.io", "/other"], true),
            (Some(5), &two, &["/openshift.io", "/oth"], false),
            (
                Some(5),
                &two,
                &["/openshift.io", "/other/one/secrets"],
                false,
            ),
            // More than listed.
            (Some(6), &two, &["/openshift.io", "/other"], false),
            (Some(1), &[("plain", 1)], &["/plain"], true),
            // Etcd refuses to count.
            (None, &[], &[], false),
            (None, &[], &["/openshift.io"], true),
        ] {
            let unread = unread(keys, prefixes, allowed);
            assert_eq!(unread.is_allowed(), holds, "{unread:?}");
        }
    }

    #[test]
    fn unread_keys_are_named_by_prefix() {
        let some = unread(Some(5), &[("/a", 2), ("/b", 3)], &[]);
        assert_eq!(
            some.describe(),
            "5 keys outside /registry were left unread: /a 2, /b 3"
        );
        let (_, values) = some.cause("etcd", None);
        let below = ("below", "/registry".to_owned());
        assert_eq!(values, [below, ("unread", "/a,/b".to_owned())]);
        let denied = unread(None, &[], &[]);
        assert!(denied.describe().contains("neither to read nor to count"));
        let (_, values) = denied.cause("etcd", Some("scan-etcd"));
        let refusing = ("refusing", "etcd".to_owned());
        assert_eq!(values, [refusing, ("unread", "PREFIX,...".to_owned())]);
    }
}
