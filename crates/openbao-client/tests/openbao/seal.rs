use kms_domain::{
    aad::AssociatedData,
    scope::{KeyName, MountPath, TransitKeyPath},
    transit::TransitVersion,
};
use openbao_client::{failure::FailureClass, transit::Transit};
use testkit::openbao::OpenBao;

use crate::corner::{LONG, client, token};

#[tokio::test]
async fn a_sealed_server_is_known_as_such_by_every_call_and_a_stopped_one_is_not() {
    let mut server = OpenBao::start().await;
    server.seal().await;
    let path = TransitKeyPath {
        mount_path: MountPath::parse("transit").unwrap(),
        key_name: KeyName::parse("etcd").unwrap(),
    };
    let transit = Transit::new(client(server.endpoint()), &path, LONG);
    let token = token("s.any");
    let data = AssociatedData::status_probe();
    let encrypted = transit
        .encrypt(&token, TransitVersion::FIRST, b"x", &data)
        .await;
    let metadata = transit.key_metadata(&token).await;
    for failure in [encrypted.unwrap_err(), metadata.unwrap_err()] {
        assert_eq!(failure.class(), FailureClass::Sealed);
        assert_eq!(failure.http_status(), Some(503));
    }

    let stopped = server.stop().await;
    let refused = transit.key_metadata(&token).await.unwrap_err();
    assert_eq!(refused.class(), FailureClass::ConnectionFailed);
    drop(stopped);
}
