//! Puts many objects into etcd, as many in a transaction as it takes.

use bytes::Bytes;
use http::uri::PathAndQuery;
use testkit::etcd::Etcd;
use tonic::{
    Request,
    client::Grpc,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

/// `--max-txn-ops` of etcd.
const AT_ONCE: usize = 128;
/// Less than etcd's limit of 1.5 MiB for a request; a larger object is sent alone.
const AT_ONCE_BYTES: usize = 1 << 20;
const TXN: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Txn");

pub(crate) async fn put(etcd: &Etcd, objects: impl Iterator<Item = (String, Vec<u8>)>) {
    let pem = |name| std::fs::read(etcd.file(name)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem("ca.crt")))
        .identity(Identity::from_pem(pem("client.crt"), pem("client.key")));
    let endpoint = Endpoint::from_shared(etcd.endpoint().to_owned()).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let mut etcd = Grpc::new(channel);
    let mut objects = objects.peekable();
    loop {
        // Two objects may exceed the limit of a request together.
        let (mut bytes, mut success) = (0, Vec::new());
        while bytes < AT_ONCE_BYTES && success.len() < AT_ONCE {
            let Some((key, value)) = objects
                .next_if(|(_, value)| success.is_empty() || bytes + value.len() <= AT_ONCE_BYTES)
            else {
                break;
            };
            bytes += value.len();
            success.push(RequestOp {
                put: Some(PutRequest {
                    key: key.into(),
                    value: value.into(),
                }),
            });
        }
        if success.is_empty() {
            return;
        }
        etcd.ready().await.unwrap();
        let request = Request::new(TxnRequest { success });
        let codec = ProstCodec::<TxnRequest, TxnResponse>::default();
        etcd.unary(request, TXN, codec).await.unwrap();
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct TxnResponse {}
