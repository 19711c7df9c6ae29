//! URL of a member of etcd.

use std::fmt;

use http::Uri;

/// Client URL of a member: `https://HOST[:PORT]`, the same as `HOST:PORT`, or `http://` on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdEndpoint(pub(super) Uri);

/// Error in a client URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProblem {
    /// Unsupported scheme, missing host, or a path, query or user.
    #[error("must be https://HOST:PORT, or HOST:PORT")]
    Form,
    /// Data from etcd would cross the network unencrypted.
    #[error("must begin with https://; http:// is allowed to a loopback address only")]
    Plaintext,
}

impl EtcdEndpoint {
    /// Parses a URL, or `HOST:PORT` as etcdctl takes it.
    ///
    /// # Errors
    /// The violated rule.
    pub fn parse(text: &str) -> Result<Self, EndpointProblem> {
        let bare = !text.contains("://");
        let uri: Uri = match bare {
            true => format!("https://{text}").parse(),
            false => text.parse(),
        }
        .map_err(|_| EndpointProblem::Form)?;
        if bare && uri.port().is_none() {
            return Err(EndpointProblem::Form);
        }
        let authority = uri.authority().ok_or(EndpointProblem::Form)?;
        let plain = uri.path().is_empty() || uri.path() == "/";
        if !plain || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(EndpointProblem::Form);
        }
        let host = authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => Ok(Self(uri)),
            Some("http") if loopback || host == "localhost" => Ok(Self(uri)),
            Some("http") => Err(EndpointProblem::Plaintext),
            _ => Err(EndpointProblem::Form),
        }
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_https_or_on_loopback() {
        for good in [
            "https://10.0.0.1:2379",
            "https://etcd.example/",
            "http://127.0.0.1:2379",
            "http://[::1]:2379",
            "http://localhost:2379",
        ] {
            assert!(EtcdEndpoint::parse(good).is_ok(), "{good}");
        }
        for (bad, problem) in [
            ("http://10.0.0.1:2379", EndpointProblem::Plaintext),
            ("http://localhost.example", EndpointProblem::Plaintext),
            ("10.0.0.1", EndpointProblem::Form),
            ("[::1]", EndpointProblem::Form),
            ("unix:///run/etcd", EndpointProblem::Form),
            ("https://root@etcd:2379", EndpointProblem::Form),
            ("https://etcd:2379/v3", EndpointProblem::Form),
            ("https://etcd:2379?a=b", EndpointProblem::Form),
            ("", EndpointProblem::Form),
        ] {
            assert_eq!(EtcdEndpoint::parse(bad), Err(problem), "{bad}");
        }
    }
}
