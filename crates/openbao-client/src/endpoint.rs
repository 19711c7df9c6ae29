//! Location and identity of OpenBao: address, namespace, server name, roots.

use std::{borrow::Cow, fmt, net::IpAddr};

use http::{HeaderValue, Uri, uri::Authority};
use kms_domain::scope::Namespace;
use rustls::{RootCertStore, pki_types::CertificateDer};
use rustls_pki_types::pem::PemObject;

/// Connection settings of one OpenBao.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Address to connect to.
    pub address: Address,
    /// Server name for SNI and for the certificate check.
    pub server_name: ServerName,
    /// The only trusted CA certificates.
    pub roots: Roots,
    /// Namespace header of every request; `None` is the root namespace.
    pub namespace: Option<Namespace>,
}

/// Another address of the same OpenBao cluster, with the same roots and namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Address to connect to.
    pub address: Address,
    /// Server name for SNI and for the certificate check.
    pub server_name: ServerName,
}

/// An `https` address: host, optional port, optional path prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    authority: Authority,
    /// Empty, or a path with leading `/` and without trailing `/`.
    prefix: String,
}

/// Error of parsing an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressProblem {
    /// Another scheme, or none.
    #[error("must begin with https://")]
    Scheme,
    /// `user@` before the host.
    #[error("must not contain user information ('@')")]
    UserInfo,
    /// A `?`.
    #[error("must not contain a query ('?')")]
    Query,
    /// A `#`.
    #[error("must not contain a fragment ('#')")]
    Fragment,
    /// The host is empty.
    #[error("must name a host")]
    Host,
    /// A port that is empty or outside 1 to 65535.
    #[error("must have a port from 1 to 65535, or none")]
    Port,
    /// A path prefix with an empty, `.` or `..` segment.
    #[error("must have a path prefix without empty, '.' or '..' segments, or none")]
    Prefix,
    /// A character that is invalid in a URL.
    #[error("must be a valid URL")]
    Malformed,
}

impl Address {
    /// Parses `https://host[:port][/prefix]`; one trailing `/` is allowed.
    ///
    /// # Errors
    /// The first violated rule.
    pub fn parse(text: &str) -> Result<Self, AddressProblem> {
        // Checked before the URL is parsed: the parser drops fragments silently.
        if !text
            .get(..8)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
        {
            return Err(AddressProblem::Scheme);
        }
        let rest = text.get(8..).unwrap_or_default();
        if rest.contains('#') {
            return Err(AddressProblem::Fragment);
        }
        if rest.contains('?') {
            return Err(AddressProblem::Query);
        }

        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(AddressProblem::UserInfo);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(AddressProblem::Host);
        }

        let authority: Authority = authority.parse().map_err(|_| AddressProblem::Malformed)?;
        let after_host = authority.as_str().get(authority.host().len()..);
        if after_host != Some("") && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(AddressProblem::Port);
        }

        let prefix = path.strip_suffix('/').unwrap_or(path);
        let mut segments = prefix.split('/').skip(1);
        if segments.any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(AddressProblem::Prefix);
        }
        if !prefix.is_empty() {
            prefix
                .parse::<http::uri::PathAndQuery>()
                .map_err(|_| AddressProblem::Malformed)?;
        }
        Ok(Self {
            authority,
            prefix: prefix.to_owned(),
        })
    }

    /// The host if it is an IP address; `None` for a name to look up.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// The port, 443 by default.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(443)
    }

    /// Whether both addresses have the same host, port and prefix, without a name lookup.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        let same_host = match (self.ip(), other.ip()) {
            (Some(a), Some(b)) => a.to_canonical() == b.to_canonical(),
            _ => self.host().eq_ignore_ascii_case(other.host()),
        };
        same_host && self.port() == other.port() && self.prefix == other.prefix
    }

    /// `host:port` in the form that other programs take, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.authority.host(), self.port())
    }

    /// The host without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    /// Host and port for the `Host` header.
    pub(crate) fn host_header(&self) -> HeaderValue {
        // An authority contains only visible ASCII characters.
        HeaderValue::from_str(self.authority.as_str())
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Percent-encodes an API path and returns the request target.
    pub(crate) fn target(&self, path: &str) -> Result<Uri, http::Error> {
        let mut target = format!("{}/v1/", self.prefix);
        for byte in path.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte) {
                target.push(char::from(byte));
            } else {
                target.push_str(&format!("%{byte:02X}"));
            }
        }
        Uri::builder().path_and_query(target).build()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority, self.prefix)
    }
}

/// A DNS name or IP address; the server's certificate must be valid for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(rustls::pki_types::ServerName<'static>);

/// Error: the text is neither a DNS name nor an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a DNS name or an IP address")]
pub struct ServerNameProblem;

impl ServerName {
    /// Parses a DNS name or an IP address.
    ///
    /// # Errors
    /// [`ServerNameProblem`] for any other text.
    pub fn parse(text: &str) -> Result<Self, ServerNameProblem> {
        rustls::pki_types::ServerName::try_from(text)
            .map(|name| Self(name.to_owned()))
            .map_err(|_| ServerNameProblem)
    }

    pub(crate) fn to_rustls(&self) -> rustls::pki_types::ServerName<'static> {
        self.0.clone()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}

/// The certificates trusted to sign OpenBao's; at least one.
#[derive(Debug, Clone)]
pub struct Roots(RootCertStore);

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl Eq for Roots {}

/// Error of parsing a set of roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootsProblem {
    /// A PEM section cannot be decoded.
    #[error("must be PEM, but a section cannot be decoded")]
    NotPem,
    /// The `CERTIFICATE` section is missing.
    #[error("must hold at least one PEM certificate")]
    NoCertificate,
    /// A section is unusable as a trust anchor.
    #[error("must hold only usable certificates, but number {position} is not")]
    Unusable {
        /// Position of the section, from 1.
        position: usize,
    },
}

/// Two sections without a line feed between them, as `cat` leaves them. A PEM reader drops the second
/// one silently.
const GLUED: &str = "-----END CERTIFICATE----------BEGIN CERTIFICATE-----";
const SEPARATED: &str = "-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----";

/// Whether the PEM text has sections without a line feed between them.
#[must_use]
pub fn is_glued(pem: &[u8]) -> bool {
    str::from_utf8(pem).is_ok_and(|text| text.contains(GLUED))
}

fn separated(pem: &[u8]) -> Cow<'_, [u8]> {
    match str::from_utf8(pem) {
        Ok(text) if text.contains(GLUED) => Cow::Owned(text.replace(GLUED, SEPARATED).into_bytes()),
        _ => Cow::Borrowed(pem),
    }
}

impl Roots {
    /// Parses all `CERTIFICATE` sections of a PEM text.
    ///
    /// # Errors
    /// When the text has no certificate or an unusable one.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsProblem> {
        let mut store = RootCertStore::empty();
        let pem = separated(pem);
        for (index, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
            let certificate = certificate.map_err(|_| RootsProblem::NotPem)?;
            store.add(certificate).map_err(|_| RootsProblem::Unusable {
                position: index + 1,
            })?;
        }
        if store.is_empty() {
            return Err(RootsProblem::NoCertificate);
        }
        Ok(Self(store))
    }

    /// Parses the `CERTIFICATE` sections of a PEM text and leaves out unusable ones: the bundle of a
    /// system may have some, and nobody on the node can correct it.
    ///
    /// # Errors
    /// When the text has no usable certificate.
    pub fn usable_from_pem(pem: &[u8]) -> Result<Self, RootsProblem> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
        match store.is_empty() {
            true => Err(RootsProblem::NoCertificate),
            false => Ok(Self(store)),
        }
    }

    /// Number of certificates; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_store(self) -> RootCertStore {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_host_port_and_prefix() {
        for (text, shown, host, target) in [
            (
                "https://bao.example:8200",
                "https://bao.example:8200",
                "bao.example:8200",
                "/v1/transit/keys/k",
            ),
            (
                "HTTPS://bao.example/",
                "https://bao.example",
                "bao.example",
                "/v1/transit/keys/k",
            ),
            (
                "https://[::1]:8200/proxy/bao/",
                "https://[::1]:8200/proxy/bao",
                "[::1]:8200",
                "/proxy/bao/v1/transit/keys/k",
            ),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.host_header(), host);
            assert_eq!(address.target("transit/keys/k").unwrap(), target);
        }
    }

    #[test]
    fn an_address_knows_whether_it_needs_a_lookup_and_its_port() {
        for (text, ip, port) in [
            ("https://bao.example", None, 443),
            ("https://10.0.0.1:8200/prefix", Some("10.0.0.1"), 8200),
            ("https://[fd00::1]:8200", Some("fd00::1"), 8200),
        ] {
            let address = Address::parse(text).unwrap();
            let ip = ip.map(|ip| ip.parse().unwrap());
            assert_eq!((address.ip(), address.port()), (ip, port), "{text}");
        }
    }

    #[test]
    fn one_place_has_several_spellings() {
        let address = |text| Address::parse(text).unwrap();
        for (a, b, same) in [
            ("https://bao", "https://BAO:443/", true),
            ("https://bao", "https://bao:8200", false),
            ("https://bao/a", "https://bao/b", false),
            ("https://[::ffff:10.0.0.1]", "https://10.0.0.1", true),
            ("https://10.0.0.1", "https://bao", false),
        ] {
            assert_eq!(address(a).is_same_place(&address(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn an_address_says_what_is_wrong_with_it() {
        for (text, problem) in [
            ("http://bao", AddressProblem::Scheme),
            ("bao.example:8200", AddressProblem::Scheme),
            ("https://", AddressProblem::Host),
            ("https://:8200", AddressProblem::Host),
            ("https:///v1", AddressProblem::Host),
            ("https://user@bao", AddressProblem::UserInfo),
            ("https://bao?x=1", AddressProblem::Query),
            ("https://bao/#x", AddressProblem::Fragment),
            ("https://bao:0", AddressProblem::Port),
            ("https://bao:", AddressProblem::Port),
            ("https://bao:65536", AddressProblem::Port),
            ("https://bao/a//b", AddressProblem::Prefix),
            ("https://bao/../b", AddressProblem::Prefix),
            ("https://bao/a b", AddressProblem::Malformed),
            ("https://b ao", AddressProblem::Malformed),
        ] {
            assert_eq!(Address::parse(text), Err(problem), "{text:?}");
        }
    }

    #[test]
    fn a_path_cannot_leave_its_place_in_the_url() {
        let address = Address::parse("https://bao").unwrap();
        let url = address.target("mount <1>?a#b%2f\"ä/keys").unwrap();
        assert_eq!(url.path(), "/v1/mount%20%3C1%3E%3Fa%23b%252f%22%C3%A4/keys");
        assert_eq!(url.query(), None);
    }

    #[test]
    fn roots_need_a_certificate() {
        for (pem, problem) in [
            ("", RootsProblem::NoCertificate),
            ("no pem at all", RootsProblem::NoCertificate),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                RootsProblem::Unusable { position: 1 },
            ),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                RootsProblem::NotPem,
            ),
        ] {
            assert_eq!(
                Roots::from_pem(pem.as_bytes()).unwrap_err(),
                problem,
                "{pem:?}"
            );
        }
    }

    #[test]
    fn an_unusable_certificate_in_the_bundle_of_a_system_is_left_out() {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default();
        let good = ca.self_signed(&key).unwrap().pem();
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let both = format!("{bad}{good}");
        let refused = Roots::from_pem(both.as_bytes()).unwrap_err();
        assert_eq!(refused, RootsProblem::Unusable { position: 1 });
        assert_eq!(Roots::usable_from_pem(both.as_bytes()).unwrap().len(), 1);
        for none in ["", bad] {
            let refused = Roots::usable_from_pem(none.as_bytes()).unwrap_err();
            assert_eq!(refused, RootsProblem::NoCertificate);
        }
    }

    #[test]
    fn a_server_name_is_a_name_or_an_address() {
        assert!(ServerName::parse("bao.example").is_ok());
        assert!(ServerName::parse("127.0.0.1").is_ok());
        assert_eq!(ServerName::parse("a b"), Err(ServerNameProblem));
        assert_eq!(ServerName::parse(""), Err(ServerNameProblem));
    }
}
