//! Providers change their release one after another.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use super::super::{Trio, everyday::rotation, explained::assert_none_failed};
use crate::node::program;

#[tokio::test]
#[ignore = "long: minutes of load on a cluster of three, and a build of an earlier commit"]
async fn providers_change_their_release_and_back_one_after_another() {
    let earlier = PathBuf::from(env::var_os("EARLIER_BIN").unwrap());
    let built = PathBuf::from(program().get_program());
    let mut trio = Trio::new().await;
    for (name, release) in [
        ("providers go back to an earlier release", &earlier),
        ("providers are upgraded to this release", &built),
    ] {
        let record = trio
            .play(name, async |trio| {
                for number in 0..3 {
                    trio.end_provider(number, Signal::TERM).await;
                    trio.start_release(number, release).await;
                    trio.nodes_agree().await;
                }
                rotation(trio).await;
            })
            .await;
        assert_none_failed(&record);
    }
}

impl Trio {
    async fn start_release(&mut self, number: usize, release: &Path) {
        let node = &self.nodes[number];
        let serve = node.program(&["serve"]);
        let variables = serve.get_envs();
        let mut command = Command::new(release);
        command
            .args(serve.get_args())
            .env_clear()
            .envs(variables.filter_map(|(name, value)| Some((name, value?))));
        let mut provider = node.spawn_as(command);
        provider.ready().await;
        self.providers[number] = Some(provider);
    }
}
