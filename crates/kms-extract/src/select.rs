//! Selection of objects by their etcd keys, and their reading.

use etcd_snapshot::{
    file::OnProgress,
    revision::{Object, Revisions},
    value::{Protection, Resource},
};
use kms_operator::recovery::{EtcdError, EtcdReading, EtcdSource, prefix};
use zeroize::Zeroizing;

/// The wanted objects. `*` stands for any text, `?` for one letter.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// `--etcd-prefix` of the API server.
    pub prefix: Option<String>,
    /// Resources in the plural, with or without their group. Empty selects none.
    pub resources: Vec<String>,
    /// Namespaces; empty selects all, and objects without one.
    pub namespaces: Vec<String>,
    /// Names; empty selects all.
    pub names: Vec<String>,
    /// Namespaces that are selected with every object.
    pub whole_namespaces: Vec<String>,
    /// The etcd revision of the objects; `None` for the newest one.
    pub revision: Option<i64>,
}

/// A selected object as etcd has it. The value is wiped: it may be plaintext.
pub struct Stored {
    pub key: Vec<u8>,
    pub path: ObjectPath,
    pub revision: i64,
    pub value: Zeroizing<Vec<u8>>,
}

/// The names in an etcd key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectPath {
    /// As in `kubectl get`: `secrets`, `widgets.example.org`.
    pub resource: String,
    pub namespace: Option<String>,
    pub name: String,
}

/// Failure of a selection.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error(
        "the selected objects have more than {} MiB; nothing was written",
        MAX_SELECTED >> 20
    )]
    TooLarge,
    #[error("etcd has revisions {oldest} to {newest}, not revision {wanted}")]
    Revision {
        wanted: i64,
        oldest: i64,
        newest: i64,
    },
}

/// Limit of the selected values in bytes: they are in memory together, so that one failure prevents
/// all writing.
const MAX_SELECTED: usize = 512 << 20;

/// API groups of Kubernetes whose keys lack the group; `core` has the resources without one.
const BUILT_IN: [&str; 22] = [
    "admissionregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "core",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// Parts of keys of the API servers' own records, which no API shows.
const INTERNAL: [&str; 3] = ["masterleases", "peerserverleases", "ranges"];

impl Selection {
    /// Reads the selected objects, in the order of their paths.
    ///
    /// # Errors
    /// [`SelectError`].
    pub fn read(
        &self,
        source: &EtcdSource,
        on_progress: OnProgress<'_>,
    ) -> Result<EtcdReading<Vec<Stored>>, SelectError> {
        let revisions = self.revision.map_or(Revisions::Newest, Revisions::At);
        let reading = source.read(
            revisions,
            on_progress,
            || (Vec::new(), 0_usize),
            |(selected, bytes): &mut (Vec<Stored>, usize), object| {
                let Some(path) = self.path_of(object) else {
                    return;
                };
                *bytes = bytes.saturating_add(object.value.len());
                if *bytes <= MAX_SELECTED {
                    selected.push(Stored {
                        key: object.key.to_vec(),
                        path,
                        revision: object.revision,
                        value: Zeroizing::new(object.value.to_vec()),
                    });
                }
            },
        )?;
        let EtcdReading {
            gathered: (mut selected, bytes),
            totals,
            trust,
            unread,
        } = reading;
        if bytes > MAX_SELECTED {
            return Err(SelectError::TooLarge);
        }
        // A running etcd checks its revision itself.
        let oldest = totals.compacted.unwrap_or(1);
        if let Some(wanted) = self.revision
            && !(oldest..=totals.revision).contains(&wanted)
        {
            return Err(SelectError::Revision {
                wanted,
                oldest,
                newest: totals.revision,
            });
        }
        selected.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(EtcdReading {
            gathered: selected,
            totals,
            trust,
            unread,
        })
    }

    /// The path of a selected API object.
    fn path_of(&self, object: Object<'_>) -> Option<ObjectPath> {
        let prefix = self.prefix.as_deref().unwrap_or(prefix::DEFAULT);
        let (resource, rest) = Resource::split(object.key, Some(prefix))?;
        let (namespace, name) = match rest.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, rest),
        };
        let is_namespace = resource.name() == "namespaces" && resource.group().is_none();
        let within = if is_namespace { Some(name) } else { namespace };
        let is_whole = within.is_some_and(|it| any_fits(&self.whole_namespaces, it));
        let is_named = || {
            let in_namespace = self.namespaces.is_empty()
                || namespace.is_some_and(|it| any_fits(&self.namespaces, it));
            let is_named = self.names.is_empty() || any_fits(&self.names, name);
            in_namespace && is_named && self.resources.iter().any(|it| is_of(resource, it))
        };
        if name.is_empty() || !(is_whole || is_named()) {
            return None;
        }
        let is_internal = resource.group().is_none() && INTERNAL.contains(&resource.name());
        if is_internal || Protection::of(object.value) == Protection::NotAnObject {
            return None;
        }
        Some(ObjectPath {
            resource: resource.to_string(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

impl std::fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.resource)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{}/", namespace.escape_debug())?;
        }
        write!(f, "{}", self.name.escape_debug())
    }
}

/// Whether the rule selects the resource. A name without a group selects those of every group.
fn is_of(resource: Resource<'_>, rule: &str) -> bool {
    let bare = match (resource.group(), rule.split_once('.')) {
        (None, Some((name, group))) if is_built_in(group) => name,
        _ => rule,
    };
    fits(bare, resource.name()) || fits(rule, &resource.to_string())
}

/// Whether the keys of the group's resources lack the group.
pub(crate) fn is_built_in(group: &str) -> bool {
    BUILT_IN.contains(&group)
}

fn any_fits(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, text))
}

/// Whether the text fits the pattern, in time proportional to the product of their lengths.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // The last `*`, and the first letter after those that it stands for.
    let mut star: Option<(usize, usize)> = None;
    let (mut at, mut read) = (0, 0);
    while let Some(letter) = text.get(read) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == letter => {
                at += 1;
                read += 1;
            }
            _ => match star {
                None => return false,
                Some((place, next)) => {
                    star = Some((place, next + 1));
                    (at, read) = (place + 1, next + 1);
                }
            },
        }
    }
    pattern.iter().skip(at).all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_two_wildcards() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("?", "", false),
            ("db-?", "db-1", true),
            ("db-?", "db-10", false),
            ("a**", "a", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn objects_are_selected_by_the_parts_of_their_keys() {
        let texts = |texts: &[&str]| texts.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let selection = |resources: &[&str], namespaces: &[&str], names: &[&str]| Selection {
            resources: texts(resources),
            namespaces: texts(namespaces),
            names: texts(names),
            ..Selection::default()
        };
        let all_of = |namespace: &str| Selection {
            whole_namespaces: texts(&[namespace]),
            ..Selection::default()
        };
        let selected = |selection: &Selection, key: &str, value: &[u8]| {
            let object = Object {
                key: key.as_bytes(),
                value,
                revision: 1,
                superseded: false,
            };
            selection.path_of(object).map(|path| path.to_string())
        };
        let secret = "/registry/secrets/shop/db";
        let widget = "/registry/example.org/widgets/shop/one";
        let role = "/registry/clusterroles/system:admin";
        let deployment = "/registry/deployments/shop/web";
        for (selection, key, expected) in [
            (
                selection(&["secrets"], &[], &[]),
                secret,
                Some("secrets shop/db"),
            ),
            (
                selection(&["secrets"], &["sho?"], &["d*"]),
                secret,
                Some("secrets shop/db"),
            ),
            (selection(&["secrets"], &["other"], &[]), secret, None),
            (selection(&["secrets"], &[], &["other"]), secret, None),
            (selection(&["configmaps"], &[], &[]), secret, None),
            (selection(&["*"], &[], &[]), secret, Some("secrets shop/db")),
            (
                selection(&["widgets"], &[], &[]),
                widget,
                Some("widgets.example.org shop/one"),
            ),
            (
                selection(&["widgets.example.org"], &[], &[]),
                widget,
                Some("widgets.example.org shop/one"),
            ),
            (selection(&["widgets.example.com"], &[], &[]), widget, None),
            (
                selection(&["deployments.apps"], &[], &[]),
                deployment,
                Some("deployments shop/web"),
            ),
            (
                selection(&["deployments.example.org"], &[], &[]),
                deployment,
                None,
            ),
            (selection(&["*.example.org"], &[], &[]), deployment, None),
            (selection(&["deployments.co*"], &[], &[]), deployment, None),
            (
                selection(&["clusterroles"], &[], &[]),
                role,
                Some("clusterroles system:admin"),
            ),
            (selection(&["clusterroles"], &["*"], &[]), role, None),
            (all_of("shop"), secret, Some("secrets shop/db")),
            (all_of("shop"), widget, Some("widgets.example.org shop/one")),
            (all_of("shop"), role, None),
            (
                all_of("sh*"),
                "/registry/namespaces/shop",
                Some("namespaces shop"),
            ),
            (
                selection(&["secrets"], &[], &[]),
                "/other/secrets/shop/db",
                None,
            ),
        ] {
            let found = selected(&selection, key, b"{}");
            assert_eq!(found.as_deref(), expected, "{key} {selection:?}");
            assert_eq!(selected(&selection, key, b"42"), None);
        }
        let lease = "/registry/masterleases/192.0.2.1";
        assert_eq!(selected(&selection(&["*"], &[], &[]), lease, b"{}"), None);
    }
}
