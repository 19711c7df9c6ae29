//! Two builds of one commit, in two directories, with equal digests.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::{Options, Release, SUMS, empty};
use crate::process::{self, Error, say};

/// Of different lengths: a path of the building machine in a program would change its size.
const DIRECTORIES: [&str; 2] = ["one", "another/of-a-greater-length"];

/// The second build is published, unsigned. After a difference the first one stays beside it.
pub(super) fn make(args: &[&str], options: &Options) -> Result<(), Error> {
    if options.program.is_some() {
        return Err(Error::Usage(
            "--verify-reproducible takes no ready program".into(),
        ));
    }
    let release = Release::current(9)?;
    if release.dirty {
        return Err(Error::Refused(
            "tracked files differ from the commit; commit them first".into(),
        ));
    }
    let base = process::root().join("target/reproducible");
    empty(&base)?;
    let first = base.join("dist");
    let published = std::path::absolute(&options.out);
    let published = published.map_err(Error::file("find", &options.out))?;
    let mut lists = Vec::new();
    for (directory, out) in DIRECTORIES.into_iter().zip([&first, &published]) {
        let copy = base.join(directory);
        let mut clone = Command::new("git");
        clone.args(["clone", "--quiet", "--shared", "--no-checkout"]);
        process::run(clone.arg(process::root()).arg(&copy))?;
        let mut checkout = Command::new("git");
        checkout.args(["checkout", "--quiet", "--detach", &release.commit]);
        process::run(checkout.current_dir(&copy))?;

        // Compilers are pinned by digest; their caches are not shared.
        let (target, tools) = (copy.join("target"), process::root().join("target/tools"));
        for directory in [&target, &tools] {
            fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
        }
        let link = target.join("tools");
        symlink(&tools, &link).map_err(Error::file("link", &link))?;
        let mut dist = process::cargo(&["xtask", "dist"]);
        dist.args(unsigned(args))
            .arg("--out")
            .arg(out)
            .current_dir(&copy)
            .env_remove("CARGO_TARGET_DIR")
            .env("XDG_CACHE_HOME", target.join("cache"));
        process::run(&mut dist)?;
        fs::remove_dir_all(&copy).map_err(Error::file("remove", &copy))?;
        let list = out.join(SUMS);
        lists.push(fs::read_to_string(&list).map_err(Error::file("read", &list))?);
    }
    let [one, other] = &lists[..] else {
        return Err(Error::Refused("two builds are compared".into()));
    };
    let differing = one
        .lines()
        .zip(other.lines())
        .filter(|(one, other)| one != other);
    let differing: Vec<_> = differing.map(|(one, _)| one).collect();
    if one != other {
        return Err(Error::Refused(format!(
            "the builds in {} and {} differ in:\n{}",
            first.display(),
            published.display(),
            differing.join("\n")
        )));
    }
    say("both builds gave the same bytes");
    fs::remove_dir_all(&base).map_err(Error::file("remove", &base))
}

/// The options of one build: a signature may differ each time.
fn unsigned<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut kept = Vec::new();
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        match arg {
            "--verify-reproducible" => {}
            "--sign-key" => drop(args.next()),
            _ => kept.push(arg),
        }
    }
    kept
}
