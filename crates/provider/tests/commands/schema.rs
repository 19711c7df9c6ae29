//! `schema` and `docs/schema`. That results fit them is asserted wherever a test reads one.

use std::{collections::BTreeSet, fs, path::Path};

use super::run;

#[test]
fn the_printed_schemas_are_the_published_ones() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
    let printed: BTreeSet<_> = run(&["schema"]).out.lines().map(str::to_owned).collect();
    let published = fs::read_dir(&directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        path.file_stem().unwrap().to_str().unwrap().to_owned()
    });
    assert_eq!(published.collect::<BTreeSet<_>>(), printed);
    for name in printed {
        let published = fs::read_to_string(directory.join(&name).with_extension("json"));
        assert!(
            run(&["schema", &name]).out == published.unwrap(),
            "docs/schema/{name}.json is out of date; write it with: bao-kms-provider schema {name}"
        );
    }
}
