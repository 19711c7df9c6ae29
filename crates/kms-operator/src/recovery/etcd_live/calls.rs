//! Range calls to a member of etcd.
//!
//! They run on a thread of their own, so that the next page is on its way while the previous one is
//! processed. At most one call is in flight, so etcd spends at most one core on a reading.

use std::{
    error::Error as _,
    num::NonZeroU32,
    sync::mpsc::{Receiver, Sender, channel},
    thread::Scope,
    time::Duration,
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use kms_node::report::one_line;
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::{EtcdEndpoint, LiveError};

/// Time limit of one page.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a page in bytes. A larger page is requested again with half of its objects.
const PAGE_BYTES: usize = 64 << 20;
/// Maximum number of characters printed from a server's message.
const MESSAGE: usize = 300;
const RANGE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Range");

/// Connection to a member.
pub(super) struct Member {
    endpoint: EtcdEndpoint,
    grpc: Grpc<Channel>,
}

/// The thread with the calls. It ends when this value is dropped.
pub(super) struct Calls {
    pub(super) endpoint: EtcdEndpoint,
    requests: Sender<RangeRequest>,
    answers: Receiver<Result<Answer, NoPage>>,
}

/// Answer to a call.
pub(super) struct Answer {
    pub(super) page: RangeResponse,
    /// Time between request and answer.
    pub(super) took: Duration,
}

/// Failure of one page.
pub(super) enum NoPage {
    /// Compaction removed the revision, or it is of the future.
    Compacted,
    /// The page is larger than [`PAGE_BYTES`], or than the limit of a proxy.
    TooLarge,
    /// Access to this range is denied.
    Denied(LiveError),
    Other(LiveError),
}

impl Calls {
    /// `rate` limits the objects a second.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        runtime: Runtime,
        mut member: Member,
        rate: Option<NonZeroU32>,
    ) -> Self {
        let (requests, due) = channel::<RangeRequest>();
        let (answered, answers) = channel();
        let endpoint = member.endpoint.clone();
        scope.spawn(move || {
            let mut next = None;
            for request in due {
                let answer = runtime.block_on(async {
                    if let Some(next) = next {
                        sleep_until(next).await;
                    }
                    let begin = Instant::now();
                    let page = member.range(request).await?;
                    next = rate.and_then(|rate| begin.checked_add(pause(page.kvs.len(), rate)));
                    Ok(Answer {
                        page,
                        took: begin.elapsed(),
                    })
                });
                if answered.send(answer).is_err() {
                    break;
                }
            }
            // Avoids waiting for a hanging name lookup.
            runtime.shutdown_background();
        });
        Self {
            endpoint,
            requests,
            answers,
        }
    }

    /// Sends a request. Each one has an answer.
    pub(super) fn send(&self, request: RangeRequest) {
        // A thread that has ended is reported by `receive`.
        drop(self.requests.send(request));
    }

    /// Waits for the next answer.
    pub(super) fn receive(&self) -> Result<Answer, NoPage> {
        self.answers.recv().unwrap_or_else(|_| {
            Err(NoPage::Other(LiveError::Call {
                endpoint: self.endpoint.clone(),
                cause: "the connection was given up".to_owned(),
            }))
        })
    }

    /// The answer to a single request.
    pub(super) fn call(&self, request: RangeRequest) -> Result<RangeResponse, NoPage> {
        self.send(request);
        Ok(self.receive()?.page)
    }
}

/// Time from a request to the next one.
fn pause(objects: usize, rate: NonZeroU32) -> Duration {
    let objects = u32::try_from(objects).unwrap_or(u32::MAX);
    Duration::from_secs(1)
        .saturating_mul(objects)
        .checked_div(rate.get())
        .unwrap_or_default()
}

impl Member {
    pub(super) fn new(endpoint: EtcdEndpoint, channel: Channel) -> Self {
        let grpc = Grpc::new(channel).max_decoding_message_size(PAGE_BYTES);
        Self { endpoint, grpc }
    }

    /// The newest value of a key; `None` if it is absent. Linearizable, so it is that of every write
    /// acknowledged before the call.
    pub(super) async fn get(&mut self, key: Bytes) -> Result<Option<KeyValue>, LiveError> {
        let request = RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        };
        match self.range(request).await {
            Ok(page) => Ok(page.kvs.into_iter().find(|found| found.key == key)),
            Err(NoPage::Denied(error) | NoPage::Other(error)) => Err(error),
            Err(NoPage::Compacted | NoPage::TooLarge) => Err(LiveError::Answer {
                endpoint: self.endpoint.clone(),
                broken: "it refuses the newest revision of a small object",
            }),
        }
    }

    async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, NoPage> {
        let endpoint = self.endpoint.clone();
        let failed = |cause| LiveError::Call { endpoint, cause };
        if let Err(error) = self.grpc.ready().await {
            return Err(NoPage::Other(failed(one_line(&error))));
        }
        let codec = ProstCodec::default();
        let asked = self.grpc.unary(Request::new(request), RANGE, codec);
        // The timeout of the channel covers the response headers only.
        let Ok(answer) = timeout(PAGE_TIMEOUT, asked).await else {
            let cause = format!("a page did not come within {PAGE_TIMEOUT:?}");
            return Err(NoPage::Other(failed(cause)));
        };
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(no_page(&status, failed)),
        }
    }
}

fn no_page(status: &Status, failed: impl FnOnce(String) -> LiveError) -> NoPage {
    let says = |text| status.message().contains(text);
    match status.code() {
        Code::OutOfRange if says("has been compacted") => NoPage::Compacted,
        // The limit of this client.
        Code::OutOfRange if says("future revision") => NoPage::Compacted,
        Code::OutOfRange => NoPage::TooLarge,
        // The limit of a proxy. etcd has the same code for too many requests.
        Code::ResourceExhausted if says("larger than max") => NoPage::TooLarge,
        Code::PermissionDenied => NoPage::Denied(failed(said(status))),
        _ => NoPage::Other(failed(said(status))),
    }
}

/// Message from the server, or error of the connection.
fn said(status: &Status) -> String {
    let cause = status
        .source()
        .map_or_else(String::new, |source| format!(" ({})", one_line(source)));
    let message: String = status.message().chars().take(MESSAGE).collect();
    format!("{}{cause}", message.escape_debug())
}

/// `etcdserverpb.RangeRequest`, fields in use only. The defaults of the others select a
/// linearizable read in key order.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) range_end: Bytes,
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
    #[prost(int64, tag = "4")]
    pub(super) revision: i64,
    #[prost(bool, tag = "8")]
    pub(super) keys_only: bool,
    #[prost(bool, tag = "9")]
    pub(super) count_only: bool,
}

/// `etcdserverpb.RangeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
    #[prost(int64, tag = "4")]
    pub(super) count: i64,
}

/// `etcdserverpb.ResponseHeader`, fields in use only.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

/// `mvccpb.KeyValue`, fields in use only.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    /// Number of writes since the creation.
    #[prost(int64, tag = "4")]
    pub(super) version: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) value: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_beyond_a_limit_is_told_from_other_refusals() {
        let endpoint = EtcdEndpoint::parse("http://127.0.0.1:2379").unwrap();
        let refused = |code, message: &str| {
            no_page(&Status::new(code, message), |cause| LiveError::Call {
                endpoint: endpoint.clone(),
                cause,
            })
        };
        for (code, message) in [
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 71000000 bytes",
            ),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (9000000 vs. 4194304)",
            ),
        ] {
            assert!(matches!(refused(code, message), NoPage::TooLarge), "{code}");
        }
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        let compacted = refused(Code::OutOfRange, compacted);
        assert!(matches!(compacted, NoPage::Compacted));
        let future = "etcdserver: mvcc: required revision is a future revision";
        assert!(matches!(
            refused(Code::OutOfRange, future),
            NoPage::Compacted
        ));
        let busy = refused(Code::ResourceExhausted, "etcdserver: too many requests");
        assert!(matches!(busy, NoPage::Other(_)));
        let denied = refused(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(denied, NoPage::Denied(_)));
    }

    #[test]
    fn a_rate_spaces_requests_by_their_objects() {
        let rate = |rate| NonZeroU32::new(rate).unwrap();
        for (objects, a_second, expected) in [
            (500, 1000, Duration::from_millis(500)),
            (0, 1, Duration::ZERO),
            (3, u32::MAX, Duration::ZERO),
            (10_000, 1, Duration::from_secs(10_000)),
        ] {
            assert_eq!(pause(objects, rate(a_second)), expected);
        }
    }
}
