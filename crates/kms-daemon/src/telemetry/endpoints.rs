//! The health and metrics listeners: plain HTTP on loopback, answered from memory.
//!
//! A connection carries one request and lasts for seconds at most. At the limit, a new connection
//! replaces the oldest, so slow or idle clients cannot block others.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    task::{self, AbortHandle},
    time,
};

use super::accept::AcceptFailures;

/// Time limit for the request headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for a whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The content types of `/metrics`.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The response to a path.
#[derive(Debug)]
pub struct Answer {
    /// 200 or 503.
    pub status: StatusCode,
    /// [`JSON`](kms_node::plain_http::JSON), [`TEXT_FORMAT`] or [`OPEN_METRICS`].
    pub content_type: &'static str,
    pub body: String,
}

/// A request, as far as answers depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub path: &'a str,
    pub client: IpAddr,
    /// The `Accept` header; empty without one.
    pub accept: &'a str,
}

/// Whether the client prefers OpenMetrics to the text format. Clients without a preference, such as
/// `curl`, get the text format.
#[must_use]
pub fn prefers_open_metrics(accept: &str) -> bool {
    let quality = |wanted: &str| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parameters = range.split(';').map(str::trim);
            let named = parameters.next()?.eq_ignore_ascii_case(wanted);
            let quality = parameters.find_map(|it| it.strip_prefix("q="));
            let quality = quality.map_or(Some(1.0), |it| it.parse::<f64>().ok());
            quality.filter(|_| named)
        });
        ranges.fold(0.0, f64::max)
    };
    let open_metrics = quality("application/openmetrics-text");
    open_metrics > 0.0 && open_metrics >= quality("text/plain")
}

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {field} {host}:{port}: choose a free address, or \"\" to disable it")]
pub struct BindError {
    field: &'static str,
    host: String,
    port: u16,
    #[source]
    source: std::io::Error,
}

/// Binds the address of the configuration field `field`.
///
/// # Errors
/// The address cannot be resolved or is in use.
pub async fn bind(
    field: &'static str,
    (host, port): (&str, u16),
) -> Result<TcpListener, BindError> {
    let failed = |source| BindError {
        field,
        host: host.to_owned(),
        port,
        source,
    };
    TcpListener::bind((host, port)).await.map_err(failed)
}

/// Answers GET and HEAD for the paths known to `answer`, until the task is aborted. At most `max_connections` are open at once. `name` is the
/// listener's name in the log.
pub async fn serve<F>(listener: TcpListener, name: &'static str, max_connections: usize, answer: F)
where
    F: Fn(Asked<'_>) -> Option<Answer> + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let mut failures = AcceptFailures::of(name);
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();

    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                failures.note(&error);
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };

        connections.retain(|connection| !connection.is_finished());
        while connections.len() >= max_connections
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
            // Its descriptor is freed when the aborted task is polled.
            task::yield_now().await;
        }

        let answer = Arc::clone(&answer);
        let connection = tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move { Ok::<_, Infallible>(respond(&request, peer.ip(), &*answer)) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A disconnected or slow client needs no error handling.
            drop(time::timeout(CONNECTION_TIMEOUT, connection).await);
        });

        connections.push_back(connection.abort_handle());
    }
}

/// The bound address of a listener, for port 0.
#[must_use]
pub fn local_address(listener: &TcpListener) -> Option<SocketAddr> {
    listener.local_addr().ok()
}

fn respond(
    request: &Request<Incoming>,
    client: IpAddr,
    answer: &dyn Fn(Asked<'_>) -> Option<Answer>,
) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    let accept = request.headers().get(header::ACCEPT);
    let asked = Asked {
        path: request.uri().path(),
        client,
        accept: accept.and_then(|it| it.to_str().ok()).unwrap_or_default(),
    };
    let Some(found) = answer(asked) else {
        return plain(StatusCode::NOT_FOUND);
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        let allowed = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let mut response = Response::new(Full::from(found.body));
    *response.status_mut() = found.status;
    let content_type = header::HeaderValue::from_static(found.content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        for (accept, open_metrics) in [
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/openmetrics-text; version=1.0.0", true),
            // Prometheus 3.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                true,
            ),
            (
                "application/openmetrics-text;q=0.1, text/plain;q=0.9",
                false,
            ),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=much", false),
        ] {
            assert_eq!(prefers_open_metrics(accept), open_metrics, "{accept}");
        }
    }
}
