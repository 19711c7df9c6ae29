//! The prefix of an API server's keys. Several API servers may share one etcd, each with a
//! `--etcd-prefix` of its own, and one key of OpenBao may protect objects of all of them.

/// The prefix of an API server that was given none.
pub const DEFAULT: &str = "/registry";

/// Reads a prefix as kube-apiserver does: one slash before each part and none at the end.
///
/// # Errors
/// The rule that it breaks.
pub fn parse(text: &str) -> Result<String, &'static str> {
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    match parts[..] {
        [] => Err("must name a prefix, such as /registry"),
        _ => Ok(format!("/{}", parts.join("/"))),
    }
}

/// Whether the key is one of the API server with this prefix. `/registry-2/a` is not below `/registry`,
/// nor is `/registry` itself.
#[must_use]
pub fn is_below(key: &[u8], prefix: &str) -> bool {
    key.strip_prefix(prefix.as_bytes())
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// The prefix that a key outside `known` seems to have: its first parts, as few as it takes to be no
/// beginning of `known`. For `/openshift.io/secrets/a` beside `/registry` it is `/openshift.io`, for
/// `/k8s/two/secrets/a` beside `/k8s/one` it is `/k8s/two`.
#[must_use]
pub fn of_key<'k>(key: &'k [u8], known: &str) -> &'k [u8] {
    let known = known.as_bytes();
    let begins_known = |part: &[u8]| {
        let rest = known.strip_prefix(part);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let slashes = key.iter().enumerate().skip(1);
    let mut parts = slashes
        .filter(|(_, byte)| **byte == b'/')
        .filter_map(|(at, _)| key.get(..at));
    parts.find(|part| !begins_known(part)).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_as_kube_apiserver_reads_it() {
        for (typed, prefix) in [
            ("/registry", Ok("/registry")),
            ("registry", Ok("/registry")),
            ("/registry/", Ok("/registry")),
            ("//k8s//one/./", Ok("/k8s/one")),
            ("/k8s/../kubernetes.io", Ok("/kubernetes.io")),
            ("", Err(())),
            ("/", Err(())),
            ("a/..", Err(())),
        ] {
            let read = parse(typed);
            let read = read.as_deref().map_err(|_| ());
            assert_eq!(read, prefix, "{typed}");
        }
    }

    #[test]
    fn a_key_has_the_prefix_that_tells_it_from_the_known_one() {
        for (key, known, below, prefix) in [
            (
                "/registry/secrets/a/b",
                "/registry",
                true,
                "/registry/secrets",
            ),
            ("/registry2/secrets/a", "/registry", false, "/registry2"),
            ("/registry-2/secrets/a", "/registry", false, "/registry-2"),
            ("/reg/secrets/a", "/registry", false, "/reg"),
            ("/registry", "/registry", false, "/registry"),
            (
                "/openshift.io/secrets/a",
                "/registry",
                false,
                "/openshift.io",
            ),
            ("/k8s/two/secrets/a", "/k8s/one", false, "/k8s/two"),
            ("/k8s/one/secrets/a", "/k8s/one", true, "/k8s/one/secrets"),
            ("/k8s", "/k8s/one", false, "/k8s"),
            ("foo/bar", "/registry", false, "foo"),
            ("foo", "/registry", false, "foo"),
            ("/", "/registry", false, "/"),
            ("", "/registry", false, ""),
        ] {
            assert_eq!(is_below(key.as_bytes(), known), below, "{key}");
            assert_eq!(of_key(key.as_bytes(), known), prefix.as_bytes(), "{key}");
        }
    }
}
