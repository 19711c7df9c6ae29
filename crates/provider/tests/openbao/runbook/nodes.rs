//! A node that is replaced, with and without its state; a node of three that differs, and all three
//! restarted one by one; the only node of a cluster.

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

/// Machines that serve, with one object of version 1.
async fn cluster(names: &[&str]) -> Scene {
    let mut scene = Scene::new(TIMING).await;
    for name in names {
        scene.add_machine(name);
        scene.serve(name).await;
    }
    scene.store(names[0], "one").await;
    scene
}

fn pair(scene: &Scene, machine: &str) -> [(&'static str, Vec<u8>); 2] {
    [STATE, CHECKPOINT].map(|path| (path, fs::read(scene.machine(machine).path(path)).unwrap()))
}

#[tokio::test]
async fn a_replaced_node_takes_its_state_from_a_backup_a_peer_or_evidence() {
    let mut scene = cluster(&["cp-1", "cp-2"]).await;
    scene.rotate().await;
    scene.store("cp-1", "two").await;
    fs::create_dir(scene.backup("cp-2")).unwrap();
    for (path, content) in pair(&scene, "cp-2") {
        let name = path.rsplit('/').next().unwrap();
        let file = scene.backup(&format!("cp-2/{name}"));
        files::replace(&file, &content, 0o640);
    }

    scene.record("cp-1", "record.json").await;

    let mut walk = Walk::of("operate/disaster-recovery/node-replacement");
    walk.to_incident(&mut scene, "cp-2 is replaced").await;
    scene.lose_disk("cp-2").await;
    let again = "cp-2 is replaced once more, and its backup is missing";
    walk.to_incident(&mut scene, again).await;
    scene.assert_readable("cp-2").await;
    replace(&mut scene, "cp-2").await;
    let alone = "cp-2 is replaced a third time, and there is no other node";
    walk.to_incident(&mut scene, alone).await;
    scene.assert_readable("cp-2").await;
    replace(&mut scene, "cp-2").await;
    scene.lose_disk("cp-1").await;
    walk.to_end(&mut scene).await;
    scene.assert_readable("cp-2").await;
}

/// The machine has a new disk, with everything in place but the state.
async fn replace(scene: &mut Scene, name: &str) {
    scene.lose_disk(name).await;
    let (tenant, machine) = (scene.tenant.clone(), scene.machine(name));
    fs::create_dir_all(machine.path("/etc/openbao-kms/tls")).unwrap();
    files::directory(&machine.path("/var/lib/openbao-kms/state"), 0o750);
    machine.install(&tenant, TIMING);
}

#[tokio::test]
async fn of_three_nodes_one_at_a_time_is_mended_while_the_others_read_and_write() {
    let names = ["cp-1", "cp-2", "cp-3"];
    let mut scene = cluster(&names).await;
    let old = pair(&scene, "cp-2");
    scene.rotate().await;
    scene.store("cp-1", "two").await;

    let mut walk = Walk::of("operate/disaster-recovery/multi-node");
    let image = "the disk of cp-2 is put back from an old image";
    walk.to_incident(&mut scene, image).await;
    let machine = scene.machine_mut("cp-2");
    machine.systemctl("stop").await;
    for (path, content) in &old {
        files::replace(&machine.path(path), content, 0o640);
    }
    let tenant = scene.tenant.clone();
    let machine = scene.machine_mut("cp-2");
    machine.configure(&machine.config(&tenant, SLOW));
    machine.systemctl("start").await;
    let provider = machine.provider.as_mut().unwrap();
    provider.wait_for_event("key.pending").await;

    for down in ["cp-2", "cp-3", "cp-1"] {
        let others = format!("the others go on without {down}");
        walk.to_incident(&mut scene, &others).await;
        for name in names.iter().filter(|name| **name != down) {
            scene.assert_readable(name).await;
            scene
                .store(name, &format!("without-{down}-on-{name}"))
                .await;
        }
    }
    walk.to_end(&mut scene).await;
    for name in names {
        scene.assert_readable(name).await;
    }
}

#[tokio::test]
async fn the_only_node_comes_back_from_its_backups_alone() {
    let mut scene = Scene::new(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    scene.rotate().await;
    scene.store(FIRST, "two").await;

    let mut walk = Walk::of("operate/disaster-recovery/single-node");
    walk.to_incident(&mut scene, "the machine is lost").await;
    scene.lose_disk(FIRST).await;
    walk.to_end(&mut scene).await;
    assert!(scene.stores("one") && scene.stores("two"));
    scene.assert_readable(FIRST).await;
}
