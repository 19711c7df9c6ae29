//! The disaster recovery runbook, page by page, on real servers. `testkit::runbook` explains how a
//! page is carried out.

mod configuration;
mod emergency;
mod issuer;
mod key;
mod nodes;
mod restore_both;
mod restore_openbao;
mod state;

use std::{collections::BTreeSet, fs, path::Path};

use testkit::runbook::page::{Page, directory};

#[test]
fn every_page_with_commands_is_carried_out_by_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut walked = BTreeSet::new();
    for sources in ["openbao/runbook", "kubernetes"] {
        for source in fs::read_dir(tests.join(sources)).unwrap() {
            let source = fs::read_to_string(source.unwrap().path()).unwrap();
            let names = source.split("Walk::of(\"").skip(1);
            walked.extend(names.map(|name| name.split('"').next().unwrap().to_owned()));
        }
    }
    let mut with_commands = BTreeSet::new();
    for page in fs::read_dir(directory()).unwrap() {
        let path = page.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if !Page::read(name).items().is_empty() {
            with_commands.insert(name.to_owned());
        }
    }
    assert_eq!(walked, with_commands);
}
