//! A clock that steps by hours under a running provider: OpenBao, and not the clock, ends its token.

use testkit::{files, wait::wait_until};

use crate::{
    node::{Node, TIMING},
    provider::{SOON, to_decrypt},
};

#[tokio::test]
async fn a_clock_that_steps_both_ways_fails_no_call() {
    let node = Node::new(TIMING).await;
    // Beside the JWT, where the sandbox lets the program read.
    let offset = node.tenant.jwt_file().with_file_name("offset");
    let step = |by: &str| files::replace(&offset, by.as_bytes(), 0o644);
    step("+0");
    let mut provider = node.spawn_with_clock(&offset);
    provider.ready().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    // Beyond the life of token and JWT, and before both began.
    for (by, hours) in [("+2h", 2.0), ("+0", 0.0), ("-2h", -2.0), ("+0", 0.0)] {
        let probes = r#"transit_metadata_observation_total{status="ok"}"#;
        let before = provider.metric(probes).await;
        step(by);
        wait_until(SOON, "probes under another clock", async || {
            let decrypted = provider.decrypt(to_decrypt(&encrypted)).await;
            assert_eq!(decrypted.unwrap(), &b"seed"[..], "{by}");
            provider.metric(probes).await >= before + 3.0
        })
        .await;
        assert_eq!(provider.reasons().await, [""; 0], "{by}");
        provider.encrypt(b"seed").await.unwrap();
        let ahead = provider.metric("openbao_clock_offset_seconds").await / -3600.0;
        assert!((ahead - hours).abs() < 0.1, "{by}: {ahead} h");
    }
}
