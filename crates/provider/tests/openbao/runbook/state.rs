//! Every way in which state and checkpoint can part, and the one that nothing on the node shows.

use std::{fs, time::Duration};

use testkit::{files, runbook::Walk, tenant::Timing};

use crate::{
    machine::{CHECKPOINT, STATE},
    node::TIMING,
    scene::{FIRST, Scene},
};

/// Promotes nothing while a page is carried out.
const SLOW: Timing = Timing {
    activation_delay: Duration::from_secs(3600),
    ..TIMING
};

/// The two files.
struct Pair([Vec<u8>; 2]);

impl Pair {
    fn of(scene: &Scene) -> Self {
        Self([STATE, CHECKPOINT].map(|path| fs::read(scene.machine(FIRST).path(path)).unwrap()))
    }

    fn put(&self, scene: &Scene, path: &str) {
        let [state, checkpoint] = &self.0;
        let content = if path == STATE { state } else { checkpoint };
        files::replace(&scene.machine(FIRST).path(path), content, 0o640);
    }
}

fn remove(scene: &Scene, path: &str) {
    fs::remove_file(scene.machine(FIRST).path(path)).unwrap();
}

#[tokio::test]
async fn a_lost_or_older_state_is_refused_and_the_right_pair_serves_again() {
    let mut scene = Scene::new(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    let first = Pair::of(&scene);
    scene.rotate().await;
    scene.store(FIRST, "two").await;
    scene.record(FIRST, "record.json").await;
    let newest = Pair::of(&scene);

    let mut walk = Walk::of("operate/disaster-recovery/state-loss");
    let older = "an older state is put beside the checkpoint, and the node restarts";
    walk.to_incident(&mut scene, older).await;
    scene.machine_mut(FIRST).systemctl("stop").await;
    first.put(&scene, STATE);
    let alone = "the state is deleted, and the checkpoint stays";
    walk.to_incident(&mut scene, alone).await;
    remove(&scene, STATE);
    walk.to_incident(&mut scene, "both files are lost").await;
    remove(&scene, CHECKPOINT);
    walk.to_incident(
        &mut scene,
        "the checkpoint is deleted, and the node restarts",
    )
    .await;
    scene.assert_readable(FIRST).await;
    assert_eq!(Pair::of(&scene).0, newest.0);
    scene.machine_mut(FIRST).systemctl("stop").await;
    remove(&scene, CHECKPOINT);
    let replaced = "both files are replaced by an older pair";
    walk.to_incident(&mut scene, replaced).await;
    assert_eq!(Pair::of(&scene).0, newest.0);

    let machine = scene.machine(FIRST);
    machine.configure(&machine.config(&scene.tenant, SLOW));
    first.put(&scene, STATE);
    first.put(&scene, CHECKPOINT);
    let reading = "the other nodes' objects are read";
    walk.to_incident(&mut scene, reading).await;
    scene.assert_readable(FIRST).await;
    walk.to_end(&mut scene).await;
    scene.assert_readable(FIRST).await;
}
