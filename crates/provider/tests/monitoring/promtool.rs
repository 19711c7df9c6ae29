//! `promtool`, which understands rules as Prometheus does.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const INSTALL: &str = "promtool is not installed: run `sudo apt-get install prometheus` (Debian), \
                       or set PROMTOOL to the program";

/// What it says of its arguments, which must be good.
pub(crate) fn assert_passes(arguments: &[&str], directory: &Path) {
    let output = Command::new(program())
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(output.status.success(), "{}{}", said[0], said[1]);
}

/// As `PROMTOOL` says, else from the search path, else as put into `target/tools`.
fn program() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/promtool");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("promtool"));
    match env::var_os("PROMTOOL") {
        Some(named) => Some(named.into()),
        None => on_path.chain([installed]).find(|program| program.is_file()),
    }
    .unwrap_or_else(|| panic!("{INSTALL}"))
}
