//! OpenBao or the provider away while the API server runs or starts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use rustix::process::Signal;
use testkit::{
    control_plane::{ControlPlane, Kind, WITHIN},
    openbao::OpenBao,
    wait::wait_until,
};

use crate::{
    cluster::Cluster,
    node::{Node, TIMING},
};

#[tokio::test]
async fn an_api_server_started_while_openbao_is_down_reads_everything_once_it_is_back() {
    let openbao = OpenBao::start().await;
    let node = Node::on(&openbao, TIMING).await;
    let (mut cluster, provider) = Cluster::encrypting_on(node).await;
    cluster.write_each("kept", "through the outage").await;
    cluster.control_plane.stop().await;

    let stopped = openbao.stop().await;
    wait_until(WITHIN, "the provider to notice", async || {
        !provider.reasons().await.is_empty()
    })
    .await;
    cluster.control_plane.spawn(&[]);
    wait_until(WITHIN, "word of the failure", async || {
        cluster
            .control_plane
            .log()
            .contains("failed to decrypt data")
    })
    .await;
    // It serves, is not ready, and reads nothing until its first Encrypt has succeeded. These are
    // the words that an operator finds.
    let (status, said) = cluster.control_plane.get("/readyz?verbose").await.unwrap();
    assert_eq!(status, 500, "{said}");
    assert!(said.contains("[-]kms-providers failed"), "{said}");
    let refused = cluster.control_plane.read(Kind::Secret, "kept").await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("got unexpected nil transformer"),
        "{refused}"
    );

    let _openbao = stopped.start().await;
    let back = Instant::now();
    cluster.control_plane.ready().await;
    println!("ready {:?} after OpenBao", back.elapsed());
    cluster.assert_each("kept", "through the outage").await;
    cluster.print_calls("cold start", &provider).await;
}

/// What writers of one API server have been promised: the last text that each write was confirmed
/// for.
async fn write_until(stop: Arc<AtomicBool>, control_plane: &ControlPlane, writer: usize) -> usize {
    let mut confirmed = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("load-{writer}-{confirmed}");
        let written = control_plane.write(Kind::Secret, &name, &name).await;
        if written.is_ok() {
            confirmed += 1;
        }
    }
    confirmed
}

#[tokio::test]
async fn a_provider_restarted_and_killed_under_load_loses_no_write() {
    let (mut cluster, mut provider) = Cluster::encrypting().await;
    let stop = Arc::new(AtomicBool::new(false));
    let Cluster {
        node,
        control_plane,
    } = &cluster;
    let writers = async {
        tokio::join!(
            write_until(Arc::clone(&stop), control_plane, 0),
            write_until(Arc::clone(&stop), control_plane, 1),
        )
    };
    let restarts = async {
        for signal in [Signal::TERM, Signal::KILL, Signal::TERM, Signal::KILL] {
            provider.signal(signal);
            provider.ended().await;
            provider = node.serve().await;
        }
        stop.store(true, Ordering::Relaxed);
        provider
    };
    let ((first, second), provider) = tokio::join!(writers, restarts);
    assert!(first > 0 && second > 0);

    // A new API server has no seed in memory, so every read goes through the provider.
    cluster.control_plane.kill();
    cluster.control_plane.start(&[]).await;
    for (writer, confirmed) in [first, second].into_iter().enumerate() {
        for number in 0..confirmed {
            let name = format!("load-{writer}-{number}");
            let read = cluster.control_plane.read(Kind::Secret, &name).await;
            assert_eq!(read.unwrap(), Some(name));
        }
    }
    cluster.print_calls("restarts", &provider).await;
}
