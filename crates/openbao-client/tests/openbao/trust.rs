use kms_domain::scope::{KeyName, MountPath, Namespace, TransitKeyPath};
use openbao_client::{
    endpoint::{Roots, ServerName},
    failure::FailureClass,
    request::{Operation, Request},
    transit::Transit,
};
use openbao_lab::admin::Admin;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::json;

use crate::corner::{Corner, LONG, client, token_of};

fn health() -> Request<'static> {
    Request::get(Operation::Admin, "sys/health")
}

#[tokio::test]
async fn a_server_of_another_ca_or_name_is_not_spoken_to() {
    let corner = Corner::new().await;
    assert!(corner.client().send(health(), LONG).await.is_ok());

    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let mut other_ca = corner.server.endpoint();
    other_ca.roots = Roots::from_pem(ca.pem().as_bytes()).unwrap();
    let mut other_name = corner.server.endpoint();
    other_name.server_name = ServerName::parse("other.test").unwrap();
    for endpoint in [other_ca, other_name] {
        let failure = client(endpoint).send(health(), LONG).await.err().unwrap();
        assert_eq!(failure.class(), FailureClass::TlsFailed, "{failure}");
    }
}

#[tokio::test]
async fn an_admin_request_tells_what_the_server_said() {
    let corner = Corner::new().await;
    let token = token_of(&corner.server.admin(), "root").await;
    let request = Request::post(Operation::Admin, "sys/mounts/x")
        .token(&token)
        .json(&json!({"type": "no-such-engine"}));
    let failure = corner.client().send(request, LONG).await.err().unwrap();
    assert_eq!(failure.http_status(), Some(400));
    assert!(failure.server_errors()[0].contains("no-such-engine"));
    assert!(!format!("{failure} {failure:?}").contains("no-such-engine"));
}

#[tokio::test]
async fn a_namespace_has_its_own_paths() {
    let corner = Corner::new().await;
    let name = corner.tenant.policy.as_str();
    corner
        .write(&format!("sys/namespaces/{name}"), &json!({}))
        .await;
    let root = token_of(&corner.server.admin(), "root").await;
    let mut endpoint = corner.server.endpoint();
    endpoint.namespace = Some(Namespace::parse(name).unwrap());

    let transit = Transit::new(client(endpoint.clone()), &corner.key, LONG);
    let outside = transit.key_metadata(&root).await.unwrap_err();
    assert_eq!(outside.class(), FailureClass::NotFound);

    let admin = Admin::new(endpoint.clone(), Some(&root)).unwrap();
    admin.mount_transit("inner").await.unwrap();
    admin
        .write("inner/keys/k", &json!({"type": "aes256-gcm96"}))
        .await
        .unwrap();
    let inside = TransitKeyPath {
        mount_path: MountPath::parse("inner").unwrap(),
        key_name: KeyName::parse("k").unwrap(),
    };
    let transit = Transit::new(client(endpoint), &inside, LONG);
    assert_eq!(transit.key_metadata(&root).await.unwrap().latest_version, 1);
}
