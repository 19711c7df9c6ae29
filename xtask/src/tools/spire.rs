//! Sources of SPIRE without its plugins for clouds, which are more than half of the packages to
//! compile. Go verifies the module; only the lists of built-in plugins differ from the release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{remove_dir, write};
use crate::go::WORKLOAD_API;
use crate::process::{self, Error};

const MODULE: &str = "github.com/spiffe/spire";

/// Built-in plugins that stay: for keys, node attestation, workload attestation and subjects.
const KEPT: [&str; 6] = ["disk", "memory", "jointoken", "x509pop", "unix", "uniqueid"];

/// Copies and changes the sources in `partial`. Returns the path of a go.mod for them.
pub(super) fn without_clouds(partial: &Path) -> Result<PathBuf, Error> {
    process::run(&mut WORKLOAD_API.command("go", &["mod", "download", MODULE]))?;
    let directory = ["list", "-m", "-f", "{{.Dir}}", MODULE];
    let directory = process::output(&mut WORKLOAD_API.command("go", &directory))?;
    let sources = partial.join("spire");
    remove_dir(&sources)?;
    let mut copy = Command::new("cp");
    copy.args(["-r", "--no-preserve=mode"]);
    process::run(copy.arg(directory.trim()).arg(&sources))?;

    for program in ["server", "agent"] {
        let lists = sources.join("pkg").join(program).join("catalog");
        for entry in fs::read_dir(&lists).map_err(Error::file("read", &lists))? {
            let path = entry.map_err(Error::file("read", &lists))?.path();
            let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            let kept = text.lines().filter(|line| is_kept(line));
            let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
            write(&kept, partial, &path)?;
        }
    }

    let manifest = partial.join("spire.mod");
    let replace = format!("replace {MODULE} => {}", sources.display());
    let text = format!("{}\n{replace}\n", WORKLOAD_API.manifest);
    write(&text, partial, &manifest)?;
    write(WORKLOAD_API.sums, partial, &partial.join("spire.sum"))?;
    Ok(manifest)
}

/// Whether a line of a list is other than the import or the entry of a plugin to leave out.
fn is_kept(line: &str) -> bool {
    let plugin = match line.split_once("/plugin/") {
        Some((_, package)) => package.trim_end_matches('"').split_once('/'),
        None => line
            .trim()
            .strip_suffix(".BuiltIn(),")
            .map(|name| ("", name)),
    };
    plugin.is_none_or(|(_, name)| KEPT.contains(&name))
}
