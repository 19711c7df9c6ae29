//! The rules of single values, apart from names of the identity and durations.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use kms_domain::scope::{ClusterId, ProviderName};
use openbao_client::{
    endpoint::{Address, ServerName},
    login::oauth2::TokenUrl,
};

use super::problem::Broken;
use crate::{
    group::{GroupProblem, gid_of},
    state::StatePath,
};

/// `sun_path` holds 108 bytes with the NUL at its end.
const MAX_SOCKET_PATH: usize = 107;
/// Access for others, and execute bits.
const FORBIDDEN_SOCKET_BITS: u32 = 0o117;

/// Permission bits without access for others and without execute bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketGroup {
    /// A name of the local group file.
    Name(String),
    /// At most `i32::MAX`.
    Id(u32),
}

/// A TCP address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    host: String,
    port: u16,
}

impl SocketMode {
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl SocketGroup {
    /// The group's number; a name is looked up in the local group file.
    ///
    /// # Errors
    /// [`GroupProblem`] when the file lacks the name.
    pub fn gid(&self) -> Result<u32, GroupProblem> {
        match self {
            Self::Id(gid) => Ok(*gid),
            Self::Name(name) => gid_of(name),
        }
    }
}

impl Listener {
    /// 0 lets the system choose.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host has to be looked up.
    #[must_use]
    pub fn has_name(&self) -> bool {
        !self.host.is_empty() && self.ip().is_none()
    }

    /// To bind: an empty host stands for every address of the node.
    #[must_use]
    pub fn bind_to(&self) -> (&str, u16) {
        match self.host.as_str() {
            "" => ("::", self.port),
            host => (host, self.port),
        }
    }

    /// Whether both would bind the same fixed address. Names are compared as text, without DNS;
    /// overlapping wildcards are left to the bind.
    pub(super) fn collides(&self, other: &Self) -> bool {
        let same_host = match (self.ip(), other.ip()) {
            (Some(a), Some(b)) => a == b,
            _ => self.host.eq_ignore_ascii_case(&other.host),
        };
        self.port != 0 && self.port == other.port && same_host
    }

    pub(super) fn is_loopback(&self) -> bool {
        let is_localhost = || self.host.eq_ignore_ascii_case("localhost");
        self.ip().map_or_else(is_localhost, |ip| ip.is_loopback())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }
}

fn required(text: &str) -> Result<&str, Broken> {
    match text.trim() {
        "" => Err(Broken::rule("must not be empty")),
        _ => Ok(text),
    }
}

/// The rule of names, for settings outside the identity.
pub(super) fn name(text: &str) -> Result<String, Broken> {
    // Any identifier type has this rule.
    ClusterId::parse(text)?;
    Ok(text.to_owned())
}

pub(super) fn incident_id(text: &str) -> Result<String, Broken> {
    match text.len() {
        0..=64 => name(text),
        _ => Err(Broken::rule("must not be longer than 64 bytes")),
    }
}

pub(super) fn printable(text: &str) -> Result<String, Broken> {
    match text.contains(char::is_control) {
        true => Err(Broken::rule("must not contain control characters")),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn client_id(text: &str) -> Result<String, Broken> {
    printable(required(text)?)
}

pub(super) fn claim(text: &str) -> Result<String, Broken> {
    printable(&name(text)?)
}

pub(super) fn scope(text: &str) -> Result<String, Broken> {
    let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    match !text.is_empty() && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err(Broken::rule(
            r#"must be printable ASCII without space, '"' and '\'"#,
        )),
    }
}

/// Kubernetes refuses a colon in the name of a KMS v2 plugin, so no object is stored under such a
/// name. The formats of `kms-domain` allow it.
pub(super) fn plugin_name(text: &str) -> Result<ProviderName, Broken> {
    if text.contains(':') {
        let rule =
            "must not contain a colon, which kube-apiserver refuses in the name of a KMS v2 plugin";
        return Err(Broken::rule(rule));
    }
    Ok(ProviderName::parse(text)?)
}

/// The value is not shown: a secret itself may stand in place of the path of its file.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Broken> {
    let text = required(text)?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(Broken::rule("must be an absolute path (the value is not shown)").hidden());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn state_file(text: &str) -> Result<StatePath, Broken> {
    StatePath::parse(&absolute_path(text)?).map_err(Broken::rule)
}

pub(super) fn socket_path(text: &str) -> Result<PathBuf, Broken> {
    let path = absolute_path(text)?;
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Broken::rule("must not contain '..'"));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(Broken::rule(format!(
            "must not be longer than {MAX_SOCKET_PATH} bytes, the limit of the system"
        )));
    }
    Ok(path)
}

/// [`crate::node_files`] examines the directories above the socket.
pub(super) fn socket_below(roots: &[PathBuf], path: &Path) -> Result<(), Broken> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let below = |root: &PathBuf| directory.starts_with(root) && directory != root;
    if roots.iter().any(below) && !path.as_os_str().as_bytes().ends_with(b"/") {
        return Ok(());
    }
    let names: Vec<_> = roots.iter().map(|root| root.to_string_lossy()).collect();
    let names = names.join(" or ");
    let rule = format!("must be a file in a directory below {names}");
    Err(Broken::rule(rule))
}

pub(super) fn socket_mode(text: &str) -> Result<SocketMode, Broken> {
    let octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| octal);
    match mode {
        Some(mode) if mode <= 0o777 && mode & FORBIDDEN_SOCKET_BITS == 0 => Ok(SocketMode(mode)),
        Some(_) => Err(
            Broken::rule("must give nothing to others and no execute bit")
                .hint("write \"0660\" or \"0600\""),
        ),
        None => Err(Broken::rule("must be an octal mode").hint("write \"0660\"")),
    }
}

pub(super) fn socket_group(text: &str) -> Result<SocketGroup, Broken> {
    let text = required(text)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let gid = text.parse().ok().filter(|gid| i32::try_from(*gid).is_ok());
        let rule = || Broken::rule("must be a group number of at most 2147483647");
        return gid.map(SocketGroup::Id).ok_or_else(rule);
    }
    if text.contains(|c: char| c == ':' || c.is_control() || c.is_whitespace()) {
        return Err(Broken::rule("must be a group name or number"));
    }
    Ok(SocketGroup::Name(text.to_owned()))
}

/// Host and port; the host may be empty, a name, or an IPv6 address in brackets.
pub(super) fn listener(text: &str) -> Result<Listener, Broken> {
    let malformed = || {
        Broken::rule("must be host:port, or empty to disable the listener")
            .hint("write an IPv6 address in brackets")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits);
    let port = port.ok_or_else(|| Broken::rule("must have a port from 0 to 65535"))?;
    let host = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .filter(|address| address.parse::<Ipv6Addr>().is_ok())
            .ok_or_else(malformed)?,
        None if host.contains([':', ']', '/', ' ']) => return Err(malformed()),
        None => host,
    };
    Ok(Listener {
        host: host.to_owned(),
        port,
    })
}

/// A text with `@` is not shown, since user information may hold a password.
pub(super) fn address(text: &str) -> Result<Address, Broken> {
    Address::parse(required(text)?).map_err(|problem| {
        let broken = Broken::rule(problem);
        match text.contains('@') {
            true => broken.hidden(),
            false => broken,
        }
    })
}

pub(super) fn server_name(text: &str) -> Result<ServerName, Broken> {
    ServerName::parse(required(text)?).map_err(Broken::rule)
}

/// An https URL, perhaps with a query, such as that of a token endpoint.
pub(super) fn token_url(text: &str) -> Result<TokenUrl, Broken> {
    let url = required(text).map_err(Broken::hidden)?;
    TokenUrl::parse(url).map_err(|problem| Broken::rule(problem).hidden())
}

/// The URI of a Unix socket, as a path.
pub(super) fn workload_api_socket(text: &str) -> Result<PathBuf, Broken> {
    let path = text.strip_prefix("unix://").unwrap_or_default();
    if !path.starts_with('/') || path.contains(['\0', '?', '#', '%']) {
        return Err(Broken::rule(
            "must be unix:// and an absolute path, without query, fragment and '%'",
        ));
    }
    socket_path(path)
}

/// A SPIFFE ID with a path: `spiffe://<trust domain>/<path>`.
pub(super) fn is_spiffe_id(text: &str) -> bool {
    let rest = text.strip_prefix("spiffe://").unwrap_or_default();
    let (domain, path) = rest.split_once('/').unwrap_or_default();
    let in_segment = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let in_domain = |byte: u8| in_segment(byte) && !byte.is_ascii_uppercase();
    let segment = |text: &str| !["", ".", ".."].contains(&text) && text.bytes().all(in_segment);
    text.len() <= 2048
        && !domain.is_empty()
        && domain.bytes().all(in_domain)
        && path.split('/').all(segment)
}

/// An absolute URI as in RFC 8707: a scheme, without user information or fragment.
pub(super) fn resource(text: &str) -> Result<String, Broken> {
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        || !scheme.bytes().all(in_scheme)
        || rest.is_empty()
        || !rest.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(Broken::rule("must be an absolute URI"));
    }
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let authority = authority.split(['/', '?', '#']).next();
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(Broken::rule("must not contain user information ('@')").hidden());
    }
    match rest.contains('#') {
        true => Err(Broken::rule("must not contain a fragment ('#')")),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn user(runtime: &str, effective_uid: u32) -> Environment {
        Environment {
            variables: [("XDG_RUNTIME_DIR".to_owned(), runtime.to_owned())].into(),
            effective_uid,
        }
    }

    fn socket(text: &str, environment: &Environment) -> Result<(), Broken> {
        socket_below(&environment.socket_roots(), &socket_path(text)?)
    }

    #[test]
    fn a_socket_lies_in_a_directory_below_run() {
        let nobody = Environment::default();
        for good in [
            "/run/openbao-kms/kms.sock",
            "/run/openbao-kms-2/kms.sock",
            "/var/run/openbao-kms/a/b.sock",
            "//run/./openbao-kms//kms.sock",
        ] {
            assert!(socket(good, &nobody).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "run/openbao-kms/kms.sock",
            "/run/kms.sock",
            "/run/./kms.sock",
            "/var/run/openbao-kms",
            "/run/openbao-kms/",
            "/runtime/openbao-kms/kms.sock",
            "/run/openbao-kms/../kms.sock",
            "/tmp/kms.sock",
        ] {
            assert!(socket(bad, &nobody).is_err(), "{bad:?}");
        }
        let long = format!("/run/openbao-kms/{}", "x".repeat(91));
        assert!(socket(&long, &nobody).is_err());
        assert!(socket(&long[..107], &nobody).is_ok());
    }

    #[test]
    fn the_runtime_directory_of_a_user_is_approved_for_that_user_alone() {
        let path = "/home/ann/.run/openbao-kms/kms.sock";
        assert!(socket(path, &user("/home/ann/.run", 1000)).is_ok());
        assert!(socket(path, &user("/home/ann/.run", 0)).is_err());
        assert!(socket(path, &user("home/ann/.run", 1000)).is_err());
        assert!(socket(path, &Environment::default()).is_err());
    }

    #[test]
    fn a_socket_mode_gives_nothing_to_others() {
        assert_eq!(socket_mode("0660"), Ok(SocketMode(0o660)));
        assert_eq!(socket_mode("600"), Ok(SocketMode(0o600)));
        for bad in [
            "0666",
            "0770",
            "0661",
            "1660",
            "rw-rw----",
            "0o66",
            "+660",
            "",
        ] {
            assert!(socket_mode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digits_are_a_group_number() {
        assert_eq!(socket_group("990"), Ok(SocketGroup::Id(990)));
        assert_eq!(
            socket_group("2147483647"),
            Ok(SocketGroup::Id(i32::MAX as u32))
        );
        assert_eq!(
            socket_group("kms-socket"),
            Ok(SocketGroup::Name("kms-socket".to_owned()))
        );
        for bad in ["2147483648", "", " ", "a:b", "a b"] {
            assert!(socket_group(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_workload_api_is_at_an_absolute_path() {
        let path = workload_api_socket("unix:///run/spire/api.sock").unwrap();
        assert_eq!(path, Path::new("/run/spire/api.sock"));
        for bad in [
            "",
            "/run/spire/api.sock",
            "unix:/run/spire/api.sock",
            "unix://run/spire/api.sock",
            "unix:///run/../api.sock",
            "unix:///run/api.sock?a",
            "unix:///run/api.sock#a",
            "unix:///run/%61",
            "unix:@abstract",
            "tcp://127.0.0.1:8000",
        ] {
            assert!(workload_api_socket(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_spiffe_id_has_a_trust_domain_and_a_path() {
        for good in ["spiffe://a.test/kms", "spiffe://a_1-b/Node/kms.v2"] {
            assert!(is_spiffe_id(good), "{good:?}");
        }
        for bad in [
            "",
            "spiffe://a.test",
            "spiffe://a.test/",
            "spiffe:///kms",
            "spiffe://A.test/kms",
            "spiffe://a.test:1/kms",
            "spiffe://u@a.test/kms",
            "spiffe://a.test/a//b",
            "spiffe://a.test/a/../b",
            "spiffe://a.test/kms/",
            "spiffe://a.test/kms?x",
            "spiffe://a.test/k%6ds",
            "https://a.test/kms",
        ] {
            assert!(!is_spiffe_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_listener_has_host_and_port() {
        for good in ["127.0.0.1:8081", ":0", "[::1]:1", "localhost:65535"] {
            assert!(listener(good).is_ok(), "{good:?}");
        }
        for bad in [
            "8081",
            "::1:8081",
            "[::1]",
            "a:b",
            "a:65536",
            "[x]:1",
            "a:+1",
            "http://a:1",
        ] {
            assert!(listener(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn listeners_collide_by_address_and_fixed_port() {
        let collide = |a, b| listener(a).unwrap().collides(&listener(b).unwrap());
        assert!(collide("127.0.0.1:8081", "127.0.0.1:08081"));
        assert!(collide("127.0.0.1:1", "[::ffff:127.0.0.1]:1"));
        assert!(collide("LocalHost:1", "localhost:1"));
        assert!(!collide("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!collide("0.0.0.0:1", "127.0.0.1:1"));
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        for text in ["https://u:marker@h", "http://u:marker@h", "u:marker@h"] {
            assert!(!address(text).unwrap_err().show_value, "{text:?}");
        }
        assert!(!token_url("https://h?x#marker").unwrap_err().show_value);
        assert!(!resource("https://u:marker@h/").unwrap_err().show_value);
        assert!(!absolute_path("marker").unwrap_err().show_value);
    }
}
