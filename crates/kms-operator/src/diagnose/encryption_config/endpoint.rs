//! The endpoint of a KMS plugin, parsed like kube-apiserver: with Go's `url.Parse`, limited to the
//! scheme `unix`.
//!
//! The path of the URL is the socket. Host, query and fragment are validated and dropped.

use std::net::Ipv6Addr;

use thiserror::Error;

/// kube-apiserver's reason for rejecting an endpoint, as the rest of a sentence, without the
/// endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error("is absent")]
    Absent,
    #[error("has another scheme than unix")]
    Scheme,
    #[error("has a control character")]
    Control,
    #[error("has a % without two hexadecimal digits after it")]
    Escape,
    #[error("has a host part (between unix:// and the next slash) that is no host name")]
    Host,
}

/// Address of the socket: a path, or an abstract socket with a leading `@`. Empty if no slash
/// follows the scheme.
pub(super) fn socket(endpoint: &str) -> Result<Vec<u8>, Refused> {
    if endpoint.is_empty() {
        return Err(Refused::Absent);
    }
    let (url, fragment) = endpoint.split_once('#').unwrap_or((endpoint, ""));
    if url.bytes().any(is_control) {
        return Err(Refused::Control);
    }

    let (scheme, rest) = url.split_once(':').ok_or(Refused::Scheme)?;
    if !scheme.eq_ignore_ascii_case("unix") {
        return Err(Refused::Scheme);
    }

    let (rest, _query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = match rest.strip_prefix("//") {
        Some(rest) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            authority(host)?;
            path
        }
        None if rest.starts_with('/') => rest,
        // An opaque URL in Go, without a path.
        None => "",
    };

    let path = unescape(path)?;
    unescape(fragment)?;
    let address = match path.strip_prefix(b"/@") {
        Some(_) => path.get(1..).unwrap_or_default().to_vec(),
        None => path,
    };
    dial(&address)?;
    Ok(address)
}

/// The gRPC client parses the address again, as the path of a URL.
fn dial(address: &[u8]) -> Result<(), Refused> {
    let mut parts = address.splitn(2, |byte| *byte == b'#');
    let path = parts.next().unwrap_or_default();
    if path.iter().copied().any(is_control) {
        return Err(Refused::Control);
    }
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    unescape_bytes(path)?;
    unescape_bytes(parts.next().unwrap_or_default())?;
    Ok(())
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control()
}

fn unescape(text: &str) -> Result<Vec<u8>, Refused> {
    unescape_bytes(text.as_bytes())
}

fn unescape_bytes(mut text: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((&byte, rest)) = text.split_first() {
        let (byte, rest) = match (byte, rest) {
            (b'%', [high, low, rest @ ..]) => {
                let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(Refused::Escape);
                let byte = digit(*high)? * 16 + digit(*low)?;
                (u8::try_from(byte).map_err(|_| Refused::Escape)?, rest)
            }
            (b'%', _) => return Err(Refused::Escape),
            other => other,
        };
        bytes.push(byte);
        text = rest;
    }
    Ok(bytes)
}

/// `[userinfo@]host[:port]`
fn authority(text: &str) -> Result<(), Refused> {
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (user, host),
        None => ("", text),
    };
    let in_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if !user.bytes().all(in_user) {
        return Err(Refused::Host);
    }
    unescape(user)?;

    if let Some(literal) = host.strip_prefix('[') {
        let (address, port) = literal.rsplit_once(']').ok_or(Refused::Host)?;
        let valid = address.parse::<Ipv6Addr>().is_ok() && is_port(port);
        return if valid { Ok(()) } else { Err(Refused::Host) };
    }

    let port = host
        .rfind(':')
        .and_then(|colon| host.get(colon..))
        .unwrap_or("");
    let in_host = |byte: u8| {
        !byte.is_ascii()
            || byte.is_ascii_alphanumeric()
            || b"!\"$%&'()*+,-.:;<=>]_~".contains(&byte)
    };
    if !is_port(port) || !host.bytes().all(in_host) {
        return Err(Refused::Host);
    }
    unescape(host)?;

    // An escape may encode only a percent sign or a byte outside ASCII.
    let allowed = |escape: &str| escape.starts_with("25") || escape.starts_with(|c| c >= '8');
    if host.split('%').skip(1).all(allowed) {
        Ok(())
    } else {
        Err(Refused::Host)
    }
}

fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').unwrap_or(text);
    text.is_empty() || text.starts_with(':') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether both paths lead to the same file on every node. `/var/run` equals `/run`.
///
/// A trailing slash means a directory, so the path never leads to a socket.
pub(super) fn is_same_file(one: &[u8], other: &[u8]) -> bool {
    let one = components(one);
    one.is_some() && one == components(other)
}

/// `None` for a relative path or a directory.
fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let path = path.strip_prefix(b"/")?;
    let mut found: Vec<&[u8]> = Vec::new();
    let mut last: &[u8] = b"";
    for component in path.split(|byte| *byte == b'/') {
        last = component;
        match component {
            b"" | b"." => {}
            b".." => {
                found.pop();
            }
            name => found.push(name),
        }
        if found == [b"var", b"run".as_slice()] {
            found.remove(0);
        }
    }
    (!matches!(last, b"" | b"." | b"..")).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_url_is_dialled() {
        for (endpoint, path) in [
            ("unix:///run/kms.sock", "/run/kms.sock"),
            ("UNIX:///run/kms.sock", "/run/kms.sock"),
            ("unix:/run/kms.sock", "/run/kms.sock"),
            ("unix:////run/kms.sock", "//run/kms.sock"),
            ("unix:///run/kms.sock/", "/run/kms.sock/"),
            ("unix://run/kms.sock", "/kms.sock"),
            ("unix://user:%41@host:80/run/kms.sock", "/run/kms.sock"),
            ("unix://[::1]:80/run/kms.sock", "/run/kms.sock"),
            ("unix://h%C3%A4%25/kms.sock", "/kms.sock"),
            ("unix:run/kms.sock", ""),
            ("unix://run", ""),
            ("unix:", ""),
            ("unix:///run/kms%2Esock", "/run/kms.sock"),
            ("unix:///run/k%20s", "/run/k s"),
            ("unix:///run/k s", "/run/k s"),
            ("unix:///run/kms.sock?a=b", "/run/kms.sock"),
            ("unix:///run/kms.sock#a?b", "/run/kms.sock"),
            ("unix:///run/k%3Fs%23", "/run/k?s#"),
            ("unix:///@kms.sock", "@kms.sock"),
            ("unix:///run/kms.sock#a\u{7}", "/run/kms.sock"),
        ] {
            assert_eq!(
                socket(endpoint),
                Ok(path.as_bytes().to_vec()),
                "{endpoint:?}"
            );
        }
    }

    #[test]
    fn what_go_or_grpc_cannot_parse_is_refused() {
        for (endpoint, refused) in [
            ("", Refused::Absent),
            ("/run/kms.sock", Refused::Scheme),
            ("*", Refused::Scheme),
            (":///run/kms.sock", Refused::Scheme),
            ("https://localhost/kms", Refused::Scheme),
            (" unix:///run/kms.sock", Refused::Scheme),
            ("unixx:///run/kms.sock", Refused::Scheme),
            ("unix:///run/kms.sock\n", Refused::Control),
            ("unix:///run/kms%0A.sock", Refused::Control),
            ("unix:///run/kms%.sock", Refused::Escape),
            ("unix:///run/kms%4", Refused::Escape),
            ("unix:///run/kms%25zz", Refused::Escape),
            ("unix:///run/kms.sock#%zz", Refused::Escape),
            ("unix://a b/kms.sock", Refused::Host),
            ("unix://a%41/kms.sock", Refused::Host),
            ("unix://host:port/kms.sock", Refused::Host),
            ("unix://a[::1]/kms.sock", Refused::Host),
            ("unix://[127.0.0.1]/kms.sock", Refused::Host),
            ("unix://a^b@host/kms.sock", Refused::Host),
        ] {
            assert_eq!(socket(endpoint), Err(refused), "{endpoint:?}");
        }
    }

    #[test]
    fn one_file_has_several_paths() {
        let ours = b"/run/openbao-kms/kms.sock";
        for (path, same) in [
            ("/run/openbao-kms/kms.sock", true),
            ("/var/run/openbao-kms/kms.sock", true),
            ("//run/./openbao-kms//kms.sock", true),
            ("/run/other/../openbao-kms/kms.sock", true),
            ("/var/run/../run/openbao-kms/kms.sock", true),
            ("/run/openbao-kms/kms.sock/", false),
            ("/run/openbao-kms/kms.sock/.", false),
            ("/run/openbao-kms/kms.sock/x/..", false),
            ("/openbao-kms/kms.sock", false),
            ("run/openbao-kms/kms.sock", false),
            ("", false),
        ] {
            assert_eq!(is_same_file(path.as_bytes(), ours), same, "{path}");
        }
    }
}
