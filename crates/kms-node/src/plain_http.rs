//! A single GET over plain HTTP to a provider's listener, with limits on time and size.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kms_domain::digest::TextHash;
use tokio::{net::TcpStream, time::timeout};

/// The content type of `/live`, `/ready` and `/why`.
pub const JSON: &str = "application/json";

/// More than fifty times the size of a provider's response.
const MAX_BYTES: usize = 1024 * 1024;

/// `http://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    host: String,
    port: u16,
    path: String,
}

/// Why the request failed.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The connection is refused, or the name has no address.
    #[error("no connection to {url}")]
    Connect {
        url: HttpUrl,
        #[source]
        source: std::io::Error,
    },
    /// The peer does not speak HTTP, or closed the connection early.
    #[error("{url} does not answer as an HTTP server does")]
    Http {
        url: HttpUrl,
        #[source]
        source: hyper::Error,
    },
    /// A response with another status than 200.
    #[error("{url} answered with HTTP status {}", status.as_u16())]
    Status { url: HttpUrl, status: StatusCode },
    /// The body is too large, incomplete, or invalid UTF-8.
    #[error("{url} answered with more than {MAX_BYTES} bytes, broke off, or not with text")]
    Body { url: HttpUrl },
    /// The time limit was exceeded.
    #[error("{url} did not answer in time")]
    Timeout { url: HttpUrl },
}

impl HttpUrl {
    /// A listener in this configuration, as reached from its own node.
    #[must_use]
    pub fn local((host, port): (&str, u16), path: &str) -> Self {
        // The wildcard address is valid for listening only; connect to loopback instead.
        let host = match host {
            "" | "0.0.0.0" => "127.0.0.1",
            "::" | "[::]" => "::1",
            host => host,
        };
        Self {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        }
    }

    /// Parses the URL of a command-line option; the default path is `/metrics`.
    ///
    /// # Errors
    /// The violated rule, with the expected form.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be http://HOST:PORT, such as http://127.0.0.1:8081";

        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let authority = uri.authority().ok_or(FORM)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(
                    "must be http://: the provider serves metrics on loopback without TLS; forward \
                     the port, for instance with ssh -L, and name its near end",
                );
            }
            _ => return Err(FORM),
        }

        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err("must have no user and no query");
        }

        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => 80,
            Some(port) => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .ok_or(FORM)?,
            None => return Err(FORM),
        };
        let host = host.strip_prefix('[').unwrap_or(host);
        let host = host.strip_suffix(']').unwrap_or(host);
        if host.is_empty() {
            return Err(FORM);
        }

        let path = match uri.path() {
            "" | "/" => "/metrics",
            path => path,
        };

        Ok(Self {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }

    /// Identifies the listener, also if it is given once as `localhost` and once as `127.0.0.1`.
    #[must_use]
    pub fn mark(&self) -> TextHash {
        let host = match &*self.host {
            "localhost" => "127.0.0.1",
            host => host,
        };
        TextHash::of(&format!("address {host} {} {}", self.port, self.path))
    }

    fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// The text at `url`; `accept` is the media type of the request. Redirects are errors.
///
/// # Errors
/// [`GetError`].
pub async fn get(url: &HttpUrl, accept: &'static str, limit: Duration) -> Result<String, GetError> {
    match get_any(url, accept, limit).await? {
        (StatusCode::OK, text) => Ok(text),
        (status, _) => {
            let url = url.clone();
            Err(GetError::Status { url, status })
        }
    }
}

/// Status and text at `url`.
///
/// # Errors
/// [`GetError`], but for its status.
pub async fn get_any(
    url: &HttpUrl,
    accept: &'static str,
    limit: Duration,
) -> Result<(StatusCode, String), GetError> {
    match timeout(limit, exchange(url, accept)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(GetError::Timeout { url: url.clone() }),
    }
}

async fn exchange(url: &HttpUrl, accept: &'static str) -> Result<(StatusCode, String), GetError> {
    let http = |source| GetError::Http {
        url: url.clone(),
        source,
    };
    let unusable = || GetError::Body { url: url.clone() };

    let stream = TcpStream::connect((&*url.host, url.port)).await;
    let stream = stream.map_err(|source| GetError::Connect {
        url: url.clone(),
        source,
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;

    let request = Request::get(&url.path)
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, accept)
        .body(Empty::<Bytes>::new())
        .map_err(|_| unusable())?;

    let answer = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BYTES);
        let body = body.collect().await.map_err(|_| unusable())?.to_bytes();
        let text = String::from_utf8(body.into()).map_err(|_| unusable())?;
        Ok((status, text))
    };
    // Polls the connection to transfer data while the response is pending.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ended = &mut connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_plain_http_with_a_host() {
        for (text, shown) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081/metrics"),
            ("http://node-a:8081/", "http://node-a:8081/metrics"),
            ("http://node-a/kms/metrics", "http://node-a:80/kms/metrics"),
            ("http://[::1]:8081", "http://[::1]:8081/metrics"),
        ] {
            assert_eq!(HttpUrl::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "127.0.0.1:8081",
            "/metrics",
            "https://node-a:8081",
            "unix:///run/x",
            "http://",
            "http://user@node-a:8081",
            "http://node-a:8081/metrics?x=1",
            "http://node-a:99999",
            "http://node-a:",
        ] {
            assert!(HttpUrl::parse(bad).is_err(), "{bad:?}");
        }
    }
}
