//! The rules of single values that are neither names of the identity scope nor durations.

use std::{
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use openbao_client::endpoint::{Address, AddressProblem, ServerName};

use super::{Listener, SocketGroup, SocketMode, origin::Environment, problem::Broken};

/// `sun_path` holds 108 bytes, the last of which is NUL.
const MAX_SOCKET_PATH: usize = 107;

/// No access for others, no execute bit for anybody.
const FORBIDDEN_SOCKET_BITS: u32 = 0o117;

pub(super) fn required(text: &str) -> Result<String, Broken> {
    if text.trim().is_empty() {
        return Err(Broken::rule("must not be empty"));
    }
    Ok(text.to_owned())
}

/// Empty stands for none.
pub(super) fn optional<T, E: Into<Broken>>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&str) -> Result<Option<T>, Broken> {
    move |text| {
        if text.is_empty() {
            Ok(None)
        } else {
            parse(text).map(Some).map_err(Into::into)
        }
    }
}

/// The rule of names, for settings that are not part of the identity.
pub(super) fn identifier(text: &str) -> Result<String, Broken> {
    // Any identifier type has this rule.
    kms_domain::scope::ClusterId::parse(text)?;
    Ok(text.to_owned())
}

pub(super) fn incident_id(text: &str) -> Result<String, Broken> {
    if text.len() > 64 {
        return Err(Broken::rule("must not be longer than 64 bytes"));
    }
    identifier(text)
}

pub(super) fn no_control_characters(text: &str) -> Result<String, Broken> {
    if text.contains(char::is_control) {
        return Err(Broken::rule("must not contain control characters"));
    }
    Ok(text.to_owned())
}

pub(super) fn client_id(text: &str) -> Result<String, Broken> {
    no_control_characters(&required(text)?)
}

pub(super) fn claim(text: &str) -> Result<String, Broken> {
    no_control_characters(&identifier(text)?)
}

pub(super) fn scope(text: &str) -> Result<String, Broken> {
    let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(Broken::rule(
            "must be printable ASCII without space, '\"' and '\\'",
        ));
    }
    Ok(text.to_owned())
}

/// The value is not shown: a secret itself may stand where the path of its file belongs.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Broken> {
    if text.trim().is_empty() {
        return Err(Broken::rule("must not be empty"));
    }
    if !text.starts_with('/') || text.contains('\0') {
        return Err(Broken::rule("must be an absolute path (the value is not shown)").hidden());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn socket_path(text: &str, environment: &Environment) -> Result<PathBuf, Broken> {
    let path = absolute_path(text)?;
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Broken::rule("must not contain '..'"));
    }
    if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        return Err(Broken::rule(format!(
            "must not be longer than {MAX_SOCKET_PATH} bytes, the limit of the system"
        )));
    }
    // The directories on the way are judged with the other files: a path tells nothing of them.
    let roots = environment.socket_roots();
    let directory = path.parent().unwrap_or(Path::new("/"));
    let below = |root: &PathBuf| directory.starts_with(root) && directory != root;
    if text.ends_with('/') || !roots.iter().any(below) {
        let names: Vec<_> = roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        return Err(Broken::rule(format!(
            "must be a file in a directory below {}",
            names.join(" or ")
        )));
    }
    Ok(path)
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
        return text
            .parse()
            .ok()
            .filter(|gid| i32::try_from(*gid).is_ok())
            .map(SocketGroup::Id)
            .ok_or_else(|| Broken::rule("must be a group number of at most 2147483647"));
    }
    if text.contains(|c: char| c == ':' || c.is_control() || c.is_whitespace()) {
        return Err(Broken::rule("must be a group name or number"));
    }
    Ok(SocketGroup::Name(text))
}

/// Host and port; the host may be empty, a name, or an IPv6 address in brackets.
pub(super) fn listener(text: &str) -> Result<Listener, Broken> {
    let malformed = || {
        Broken::rule("must be host:port, or empty to disable the listener")
            .hint("write an IPv6 address in brackets")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| Broken::rule("must have a port from 0 to 65535"))?;
    let host = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .filter(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
            .ok_or_else(malformed)?,
        None if host.contains([':', ']', '/', ' ']) => return Err(malformed()),
        None => host,
    };
    Ok(Listener {
        host: host.to_owned(),
        port,
    })
}

impl Listener {
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
        self.ip().map_or_else(
            || self.host.eq_ignore_ascii_case("localhost"),
            |ip| ip.is_loopback(),
        )
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }
}

pub(super) fn address(text: &str) -> Result<Address, Broken> {
    Address::parse(required(text)?.as_str()).map_err(|problem| {
        let broken = Broken::rule(problem);
        // User information may hold a password.
        if problem == AddressProblem::UserInfo || text.contains('@') {
            broken.hidden()
        } else {
            broken
        }
    })
}

pub(super) fn server_name(text: &str) -> Result<ServerName, Broken> {
    ServerName::parse(required(text)?.as_str()).map_err(Broken::rule)
}

/// An https URL that may have a query, such as that of a token endpoint.
pub(super) fn token_url(text: &str) -> Result<String, Broken> {
    let without_query = text.split_once('?').map_or(text, |(url, _)| url);
    address(without_query).map_err(Broken::hidden)?;
    if text.contains('#') {
        return Err(Broken::rule("must not contain a fragment ('#')").hidden());
    }
    text.parse::<http::Uri>()
        .map_err(|_| Broken::rule("must be a valid URL").hidden())?;
    Ok(text.to_owned())
}

/// An absolute URI as in RFC 8707: scheme, no user information, no fragment.
pub(super) fn resource(text: &str) -> Result<String, Broken> {
    let (scheme, rest) = text
        .split_once(':')
        .ok_or_else(|| Broken::rule("must be an absolute URI"))?;
    let mut letters = scheme.bytes();
    let scheme_is_valid = letters
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !scheme_is_valid || rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Broken::rule("must be an absolute URI"));
    }
    let authority = rest
        .strip_prefix("//")
        .map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(Broken::rule("must not contain user information ('@')").hidden());
    }
    if rest.contains('#') {
        return Err(Broken::rule("must not contain a fragment ('#')"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(runtime: &str, effective_uid: u32) -> Environment {
        Environment {
            variables: [("XDG_RUNTIME_DIR".to_owned(), runtime.to_owned())].into(),
            effective_uid,
        }
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
            assert!(socket_path(good, &nobody).is_ok(), "{good:?}");
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
            assert!(socket_path(bad, &nobody).is_err(), "{bad:?}");
        }
        let long = format!("/run/openbao-kms/{}", "x".repeat(91));
        assert!(socket_path(&long, &nobody).is_err());
        assert!(socket_path(&long[..107], &nobody).is_ok());
    }

    #[test]
    fn the_runtime_directory_of_a_user_is_approved_for_that_user_alone() {
        let path = "/home/ann/.run/openbao-kms/kms.sock";
        assert!(socket_path(path, &user("/home/ann/.run", 1000)).is_ok());
        assert!(socket_path(path, &user("/home/ann/.run", 0)).is_err());
        assert!(socket_path(path, &user("home/ann/.run", 1000)).is_err());
        assert!(socket_path(path, &Environment::default()).is_err());
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
