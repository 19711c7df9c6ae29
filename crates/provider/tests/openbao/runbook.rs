//! The disaster recovery runbook, page by page, on real servers. `testkit::runbook` explains how a
//! page is carried out.

mod configuration;
mod emergency;
mod issuer;
mod key;
mod migrate;
mod nodes;
mod restore_both;
mod restore_openbao;
mod state;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use kms_node::advice::Cause;
use testkit::runbook::{
    Walk,
    page::{Members, Page, directory},
};

use crate::{
    node::TIMING,
    scene::{FIRST, Scene},
};

const RUNBOOK: &str = "operate/disaster-recovery";

/// The directories whose pages are carried out.
const WALKED: [&str; 4] = [RUNBOOK, "operate/login", "install", "migrate"];

#[tokio::test]
async fn a_healthy_node_passes_both_first_looks() {
    let mut scene = Scene::new(TIMING).await;
    scene.serve(FIRST).await;
    scene.store(FIRST, "one").await;
    Walk::of("operate/disaster-recovery/README")
        .to_end(&mut scene)
        .await;
}

#[test]
fn every_page_with_commands_is_carried_out_by_a_test() {
    let sources = sources().into_iter().map(fs::read_to_string);
    let sources = sources.map(Result::unwrap).collect::<String>();
    for page in WALKED.into_iter().flat_map(pages) {
        let walked = sources.contains(&format!("\"{page}\""));
        let commands = Page::read(&page);
        assert!(walked || commands.items(Members::One).is_empty(), "{page}");
        let walk = format!("on_cluster(\"{page}\")");
        let walked = sources.contains(&walk);
        assert_eq!(walked, commands.is_about_several(), "{page}");
    }
}

#[test]
fn the_first_page_leads_to_every_other_and_names_tests_that_exist() {
    let first = Page::read("operate/disaster-recovery/README");
    for page in pages(RUNBOOK) {
        let page = page.rsplit('/').next().unwrap();
        let link = format!("({page}.md)");
        assert!(page == "README" || first.text().contains(&link), "{page}");
    }
    let sources = sources().into_iter().map(fs::read_to_string);
    let sources = sources.map(Result::unwrap).collect::<String>();
    let (_, table) = first.text().split_once("| Shown by |").unwrap();
    let named = table
        .lines()
        .skip(2)
        .filter_map(|row| row.rsplit('|').nth(1));
    for name in named.flat_map(|cell| cell.split(',')) {
        let name = name.trim().trim_matches('`');
        assert!(sources.contains(&format!("fn {name}(")), "{name}");
    }
}

/// The codes that `triage` ends with.
const VERDICTS: [&str; 47] = [
    "config_lost",
    "config_invalid",
    "identity_changed",
    "node_misconfigured",
    "state_locked",
    "jwt_unusable",
    "oauth_issuer_unreachable",
    "spiffe_agent_unreachable",
    "openbao_unreachable",
    "not_openbao",
    "openbao_untrusted",
    "openbao_uninitialized",
    "openbao_sealed",
    "openbao_no_leader",
    "clock_wrong",
    "login_refused",
    "policy_insufficient",
    "key_lost",
    "key_absent",
    "first_installation",
    "token_uses_limited",
    "key_recreated",
    "openbao_rolled_back",
    "versions_lost",
    "versions_below_minimum",
    "key_unusable",
    "encryption_blocked",
    "objects_damaged",
    "state_lost",
    "state_corrupt",
    "state_other_release",
    "state_of_preview",
    "state_rolled_back",
    "checkpoint_lost",
    "state_replaced",
    "state_disk_full",
    "state_disk_read_only",
    "state_disk_failing",
    "not_running",
    "socket_unusable",
    "legacy_socket_unusable",
    "socket_drifted",
    "provider_unhealthy",
    "not_permitted",
    "evidence_unusable",
    "inconclusive",
    "healthy",
];

#[test]
fn every_verdict_of_triage_has_a_page_to_go_to() {
    let first = Page::read("operate/disaster-recovery/README");
    for verdict in VERDICTS {
        assert!(Cause::named(verdict).is_some(), "{verdict}");
        let named = first.text().contains(&format!("`{verdict}`"));
        assert!(named, "{verdict}");
    }
}

/// The names of all pages in a directory of the documentation.
fn pages(within: &str) -> BTreeSet<String> {
    let name = |path: PathBuf| {
        let page = path.file_stem().unwrap().to_str().unwrap();
        format!("{within}/{page}")
    };
    let files = fs::read_dir(directory().join(within)).unwrap();
    files.map(|file| name(file.unwrap().path())).collect()
}

/// All files of the program's tests.
fn sources() -> Vec<PathBuf> {
    let mut sources = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    sources
}
