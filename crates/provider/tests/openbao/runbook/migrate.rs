//! The way from the reference provider.

use std::fs;

use serde_json::Value;
use testkit::{files, runbook::Walk};

use crate::{
    machine::{CHECKPOINT, CONFIG, STATE},
    node::TIMING,
    recover::preview::of_preview,
    scene::{FIRST, Scene},
};

/// The settings of a configuration as single keys.
fn flat(path: &str, value: &Value, lines: &mut Vec<String>) {
    match value.as_object() {
        Some(map) => {
            for (key, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                flat(&format!("{path}{dot}{key}"), value, lines);
            }
        }
        None => lines.push(format!("{path}: {value}")),
    }
}

#[tokio::test]
async fn a_node_of_a_preview_continues_with_its_files() {
    let mut scene = Scene::new(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    scene.rotate().await;
    scene.store(FIRST, "two").await;

    let mut walk = Walk::of("migrate/reference-provider");
    let incident = "the node has the configuration and the state of a preview";
    walk.to_incident(&mut scene, incident).await;
    scene.machine_mut(FIRST).systemctl("stop").await;
    let machine = scene.machine(FIRST);
    let pair = [STATE, CHECKPOINT].map(|path| fs::read(machine.path(path)).unwrap());
    for (path, bytes) in [STATE, CHECKPOINT].into_iter().zip(&of_preview(&pair)) {
        files::replace(&machine.path(path), bytes, 0o640);
    }
    let mut lines = vec!["# A node of a preview.".to_owned()];
    flat("", &machine.config(&scene.tenant, TIMING), &mut lines);
    let old = machine.path("/etc/openbao-kms/old.yaml");
    files::replace(&old, (lines.join("\n") + "\n").as_bytes(), 0o640);
    fs::remove_file(machine.path(CONFIG)).unwrap();
    walk.to_end(&mut scene).await;
    scene.assert_readable(FIRST).await;
}
