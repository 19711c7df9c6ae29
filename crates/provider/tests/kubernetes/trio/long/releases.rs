//! API servers of two releases of Kubernetes at once, as during an upgrade of the control plane.

use std::{env, path::PathBuf};

use super::super::{Trio, everyday::rotation, explained::assert_explained};

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three, and a build of an earlier kube-apiserver"]
async fn api_servers_change_their_release_and_back_with_a_rotation_between() {
    let program = |variable| PathBuf::from(env::var_os(variable).unwrap());
    let mut trio = Trio::new().await;
    for (name, variable) in [
        (
            "API servers go back to the release before, with a rotation between",
            "KUBE_APISERVER_EARLIER",
        ),
        (
            "API servers are upgraded, with a rotation between",
            "KUBE_APISERVER",
        ),
    ] {
        let record = trio
            .play(name, async |trio| {
                for number in 0..3 {
                    let server = &mut trio.servers[number];
                    server.stop().await;
                    server.change_to(program(variable));
                    server.ready_after_restarts().await;
                    if number == 1 {
                        assert_eq!(trio.releases().await, 2);
                        rotation(trio).await;
                    }
                }
                assert_eq!(trio.releases().await, 1);
            })
            .await;
        assert_explained(&record, &[0, 1, 2], &[]);
    }
}

impl Trio {
    /// Number of different releases among the running API servers.
    async fn releases(&self) -> usize {
        let mut releases = Vec::new();
        for server in &self.servers {
            let (_, version) = server.get("/version").await.unwrap();
            releases.push(version);
        }
        releases.sort();
        releases.dedup();
        releases.len()
    }
}
