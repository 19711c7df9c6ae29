//! The etcd of the test kit is a real one.

use testkit::etcd::Etcd;

#[tokio::test]
async fn an_etcd_keeps_what_it_was_given_over_a_restart() {
    let etcd = Etcd::start().await;
    assert_eq!(etcd.get("/a"), None);
    etcd.put("/a", b"k8s\0\xff\n");
    let stopped = etcd.stop().await;
    assert!(stopped.database().is_file());
    let etcd = stopped.start().await;
    assert_eq!(etcd.get("/a").unwrap(), b"k8s\0\xff\n");
}
