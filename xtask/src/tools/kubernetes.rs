//! kube-apiserver, the etcd of its release and two programs of our own, built with Go from the modules that
//! `tests/control-plane/go.mod` pins and go.sum vouches for.
//!
//! The environment can name ready programs instead, so that the tests run with official ones and
//! without Go.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Tool, directory, lock, remove_dir, remove_file, rename, scratch, write};
use crate::go;
use crate::process::{self, Error, say};

/// Names a directory with a ready kube-apiserver and etcd, and perhaps more of the programs.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

const PROGRAMS: [Program; 6] = [
    Program {
        name: "kube-apiserver",
        variable: "KUBE_APISERVER",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
        source: "",
    },
    Program {
        name: "etcd",
        variable: "ETCD",
        package: "go.etcd.io/etcd/server/v3",
        source: "",
    },
    Program {
        name: "etcdctl",
        variable: "ETCDCTL",
        package: "go.etcd.io/etcd/etcdctl/v3",
        source: "",
    },
    Program {
        name: "etcdutl",
        variable: "ETCDUTL",
        package: "go.etcd.io/etcd/etcdutl/v3",
        source: "",
    },
    Program {
        name: "old-client",
        variable: "OLD_CLIENT",
        package: "./old-client",
        source: include_str!("../../../tests/control-plane/old-client/main.go"),
    },
    Program {
        name: "encryption-config",
        variable: "ENCRYPTION_CONFIG",
        package: "./encryption-config",
        source: include_str!("../../../tests/control-plane/encryption-config/main.go"),
    },
];

/// Modules of the tests that need a program of ours, with its variable. Only Go makes these
/// programs.
pub(crate) const OF_OURS: [(&str, &str); 2] = [
    ("old_client::", "OLD_CLIENT"),
    ("encryption_config::", "ENCRYPTION_CONFIG"),
];

struct Program {
    name: &'static str,
    /// Names a ready one for us, and tells the tests which one to use.
    variable: &'static str,
    package: &'static str,
    /// Of a program of ours; go.sum covers the others.
    source: &'static str,
}

impl Program {
    /// Nobody publishes such a program.
    fn is_ours(&self) -> bool {
        !self.source.is_empty()
    }
}

/// Finds or builds each program, and returns all but perhaps those of ours.
///
/// Instant when nothing has changed. A second run at the same time waits for the first.
pub(super) fn provide() -> Result<Vec<Tool>, Error> {
    let home = directory().join("kubernetes");
    fs::create_dir_all(&home).map_err(Error::file("create", &home))?;
    let _lock = lock(&home.join(".lock"))?;

    let (mut tools, mut missing) = (Vec::new(), Vec::new());
    for program in &PROGRAMS {
        let path = ready(program)?.unwrap_or_else(|| {
            let built = home.join(program.name);
            if !is_built(program, &built) {
                missing.push(program);
            }
            built
        });
        tools.push(Tool {
            variable: program.variable,
            path,
        });
    }
    if !missing.is_empty() {
        match go::problem() {
            None => build(&missing, &home)?,
            // Without Go the rest is still worth running.
            Some(_) if missing.iter().all(|program| program.is_ours()) => {
                for Program { name, variable, .. } in missing {
                    say(&format!("NOT BUILT, for want of Go: {name}"));
                    tools.retain(|tool| tool.variable != *variable);
                }
            }
            Some(problem) => return Err(no_go(problem, &missing)),
        }
    }
    for Tool { variable, path } in &tools {
        say(&format!("{variable}: {}", path.display()));
    }
    Ok(tools)
}

/// A program that the environment names: by its own variable, or by the directory of several.
fn ready(program: &Program) -> Result<Option<PathBuf>, Error> {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    let (variable, path) = match (set(program.variable), set(ASSETS)) {
        (Some(path), _) => (program.variable, PathBuf::from(path)),
        (None, Some(directory)) => (ASSETS, Path::new(&directory).join(program.name)),
        (None, None) => return Ok(None),
    };
    let optional = variable == ASSETS && !["kube-apiserver", "etcd"].contains(&program.name);
    match std::path::absolute(&path) {
        Ok(path) if path.is_file() => Ok(Some(path)),
        _ if optional => Ok(None),
        _ => Err(Error::Refused(format!(
            "{variable} is set, but there is no {} at {}; correct it, or unset it to have the \
             program built with Go",
            program.name,
            path.display()
        ))),
    }
}

/// The stamp is written last, so it vouches for a whole program made from just that.
fn is_built(program: &Program, built: &Path) -> bool {
    let stamp = fs::read_to_string(stamp(built));
    built.is_file() && stamp.is_ok_and(|made_from| made_from == recipe(program))
}

fn stamp(built: &Path) -> PathBuf {
    built.with_extension("made-from")
}

/// All that decides what the built program is, word for word, so that no digest is needed.
fn recipe(program: &Program) -> String {
    let Program {
        package, source, ..
    } = program;
    let ldflags = ldflags();
    format!("{package} {ldflags}\n{source}\n{}\n{}", go::MOD, go::SUM)
}

/// Without these, the API server calls itself v0.0.0-master.
fn ldflags() -> String {
    let version = go::pinned("k8s.io/kubernetes");
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut number = || numbers.next().unwrap_or_default();
    let (major, minor) = (number(), number());
    let set = "-X k8s.io/component-base/version";
    format!("-s -w {set}.gitVersion={version} {set}.gitMajor={major} {set}.gitMinor={minor}")
}

fn no_go(problem: &str, missing: &[&Program]) -> Error {
    let variables: Vec<_> = missing
        .iter()
        .filter(|program| !program.is_ours())
        .map(|program| program.variable)
        .collect();
    Error::Refused(format!(
        "Go {} is needed to build Kubernetes {} for the tests, and {problem}; install it (any Go from \
         1.21 on fetches that release by itself, unless GOTOOLCHAIN is `local`), or name ready programs, \
         which need no Go: {}, or in {ASSETS} the directory that holds them",
        go::pinned("go"),
        go::pinned("k8s.io/kubernetes"),
        variables.join(", ")
    ))
}

/// One program after the other, each put in place when it is whole.
fn build(missing: &[&Program], home: &Path) -> Result<(), Error> {
    say(&format!(
        "building {} program(s) for the tests of Kubernetes {} with Go; on 2 cores the first time \
         takes minutes",
        missing.len(),
        go::pinned("k8s.io/kubernetes")
    ));
    let partial = home.join("partial");
    scratch(&partial)?;
    for (index, program) in missing.iter().enumerate() {
        let Program { name, package, .. } = program;
        let number = index + 1;
        say(&format!("[{number}/{}] {name} ({package})", missing.len()));
        let start = Instant::now();
        let (new, built) = (partial.join(name), home.join(name));
        let mut build = go::command("go", &["build", "-trimpath", "-buildvcs=false", "-ldflags"]);
        process::run(build.arg(ldflags()).arg("-o").arg(&new).arg(package))?;
        // An old stamp must not outlive the program that it describes.
        remove_file(&stamp(&built))?;
        rename(&new, &built)?;
        write(&recipe(program), &partial, &stamp(&built))?;
        let seconds = start.elapsed().as_secs();
        say(&format!(
            "      built in {}:{:02}",
            seconds / 60,
            seconds % 60
        ));
    }
    remove_dir(&partial)
}
