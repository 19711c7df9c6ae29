//! Receives each request completely before it is answered, within a time limit and within the
//! shared limit of bytes. An incomplete or oversized request is refused here and counted like any
//! other failed call.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use kms_domain::limits::MAX_MESSAGE_BYTES;
use kms_node::kms_api::{
    Method, generated::key_management_service_server::KeyManagementServiceServer,
};
use tokio::time::timeout;
use tonic::{Status, codegen::Service as _};
use zeroize::Zeroizing;

use super::{
    clients::{Call, Client, Phase},
    fault::Fault,
    server::Service,
};

/// Time limit from a request's headers to its last byte.
const RECEIVE: Duration = Duration::from_secs(3);
/// gRPC's prefix of a message: a flag for compression, and the length.
pub const FRAMING_BYTES: usize = 5;

/// Answers one request.
pub async fn answer(
    request: Request<Incoming>,
    kms: &impl Service,
    client: &Client,
) -> Response<Held> {
    let (head, body) = request.into_parts();
    // Any other path is answered without reading the body.
    let Some(method) = Method::of_path(head.uri.path()) else {
        let request = Request::from_parts(head, Full::default());
        return respond(request, kms)
            .await
            .map(|body| Held::new(body, None));
    };

    let refused = |fault| {
        let answer: Response<tonic::body::Body> = kms.refuse(method, fault).into_http();
        answer.map(|body| Held::new(body, None))
    };

    let Some(call) = client.call(header_bytes(&head.headers)) else {
        return refused(Fault::Concurrency);
    };

    match timeout(RECEIVE, receive(body, call)).await {
        Ok(Ok((message, call))) => {
            let request = Request::from_parts(head, Full::new(message));
            let call = call.now(Phase::Running);
            let answer = respond(request, kms).await;
            let call = call.now(Phase::Sending);
            answer.map(|body| Held::new(body, Some(call)))
        }
        Ok(Err(Unreceived::Refused(fault))) => refused(fault),
        // The client has closed the stream.
        Ok(Err(Unreceived::Gone)) => {
            let answer: Response<tonic::body::Body> = Status::cancelled("").into_http();
            answer.map(|body| Held::new(body, None))
        }
        Err(_elapsed) => refused(Fault::Deadline),
    }
}

async fn respond(request: Request<Full<Bytes>>, kms: &impl Service) -> Response<tonic::body::Body> {
    let mut service = KeyManagementServiceServer::new(kms.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    match service.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

enum Unreceived {
    Refused(Fault),
    Gone,
}

/// Reads the complete body. The copy is wiped when it is dropped, and holds no buffer of the
/// connection.
async fn receive(mut body: Incoming, mut call: Call) -> Result<(Bytes, Call), Unreceived> {
    let mut message = Zeroizing::new(Vec::new());
    let mut size = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unreceived::Gone)?;
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else {
            continue;
        };
        let size = match size {
            Some(size) => size,
            None => {
                let declared = framed_size(data)?;
                call = call
                    .hold(declared)
                    .ok_or(Unreceived::Refused(Fault::Concurrency))?;
                message.reserve_exact(declared);
                *size.insert(declared)
            }
        };
        if message.len() + data.len() > size {
            return Err(Unreceived::Refused(Fault::RequestTooLarge));
        }
        message.extend_from_slice(data);
    }
    Ok((Bytes::from_owner(message), call))
}

/// The size of the single message with its framing, according to the first bytes.
fn framed_size(first: &[u8]) -> Result<usize, Unreceived> {
    const LARGEST: usize = FRAMING_BYTES + MAX_MESSAGE_BYTES;
    let Some((_, [a, b, c, d])) = first
        .first_chunk::<FRAMING_BYTES>()
        .and_then(|framing| framing.split_first_chunk::<1>())
        .and_then(|(flag, length)| Some((flag, length.first_chunk::<4>()?)))
    else {
        return Ok(LARGEST);
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    let size = usize::try_from(length)
        .ok()
        .and_then(|it| it.checked_add(FRAMING_BYTES));
    size.filter(|size| *size <= LARGEST)
        .ok_or(Unreceived::Refused(Fault::RequestTooLarge))
}

fn header_bytes(headers: &HeaderMap) -> usize {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    sizes.sum()
}

/// The body of a response. The call counts as in progress until it is sent.
#[derive(Debug)]
pub struct Held {
    body: tonic::body::Body,
    _call: Option<Call>,
}

impl Held {
    fn new(body: tonic::body::Body, call: Option<Call>) -> Self {
        Self { body, _call: call }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_size_of_the_message() {
        let size = |first: &[u8]| framed_size(first).ok();
        assert_eq!(size(&[0, 0, 0, 0, 7, 1, 2]), Some(12));
        assert_eq!(size(&[0, 0, 1, 0, 0]), Some(65_541));
        assert_eq!(size(&[0, 0, 1, 0, 1]), None);
        assert_eq!(size(&[0, 255, 255, 255, 255]), None);
        assert_eq!(size(&[0, 0]), Some(65_541));
    }
}
