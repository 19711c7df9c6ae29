//! Builds kube-apiserver, the etcd of its release and two programs of this project with Go, from
//! the modules pinned in `tests/control-plane/go.mod` and verified by go.sum; Ory Hydra, an OAuth
//! 2.0 issuer, from `tests/issuer`; and server and agent of SPIRE from `tests/workload-api`. Long
//! tests also need kube-controller-manager, the kube-apiserver of an earlier release, from
//! `tests/control-plane-earlier`, and cosign, from `tests/cosign`.
//!
//! Environment variables can select existing programs, so that the tests run with official ones and
//! without Go.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Tool, directory, lock, remove_dir, remove_file, rename, scratch, spire, write};
use crate::go::{self, Module};
use crate::process::{self, Error, say};

/// Directory with an existing kube-apiserver and etcd, and optionally more of the programs.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Changes its sources.
const SPIRE_LISTS: &str = include_str!("spire.rs");

const PROGRAMS: [Program; 11] = [
    Program {
        name: "kube-apiserver",
        variable: "KUBE_APISERVER",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
        source: "",
    },
    Program {
        name: "kubeadm",
        variable: "KUBEADM",
        package: "k8s.io/kubernetes/cmd/kubeadm",
        source: "",
    },
    Program {
        name: "kubectl",
        variable: "KUBECTL",
        package: "k8s.io/kubernetes/cmd/kubectl",
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
    Program {
        name: "hydra",
        variable: "HYDRA",
        package: "github.com/ory/hydra/v2",
        source: "",
    },
    Program {
        name: "spire-server",
        variable: "SPIRE_SERVER",
        package: "github.com/spiffe/spire/cmd/spire-server",
        source: SPIRE_LISTS,
    },
    Program {
        name: "spire-agent",
        variable: "SPIRE_AGENT",
        package: "github.com/spiffe/spire/cmd/spire-agent",
        source: SPIRE_LISTS,
    },
];

/// Variables of the programs that only long tests need. They take minutes to build.
pub(crate) const LONG_ONLY: [&str; 3] = [EARLIER, "KUBE_CONTROLLER_MANAGER", "COSIGN"];
const EARLIER: &str = "KUBE_APISERVER_EARLIER";

const FOR_LONG_TESTS: [Program; 3] = [
    Program {
        name: "kube-apiserver-earlier",
        variable: EARLIER,
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
        source: "",
    },
    Program {
        name: "kube-controller-manager",
        variable: "KUBE_CONTROLLER_MANAGER",
        package: "k8s.io/kubernetes/cmd/kube-controller-manager",
        source: "",
    },
    Program {
        name: "cosign",
        variable: "COSIGN",
        package: "github.com/sigstore/cosign/v2/cmd/cosign",
        source: "",
    },
];

/// Test modules or tests that need a program that only Go provides, with its variable.
pub(crate) const BUILT_ONLY: [(&str, &str); 10] = [
    ("install::", "KUBEADM"),
    ("install::", "KUBECTL"),
    ("old_client::", "OLD_CLIENT"),
    ("encryption_config::", "ENCRYPTION_CONFIG"),
    ("oauth_issuer::", "HYDRA"),
    ("cosign_accepts", "COSIGN"),
    ("spire::", "SPIRE_SERVER"),
    ("spire::", "SPIRE_AGENT"),
    ("releases::", EARLIER),
    ("kube_controller_manager", "KUBE_CONTROLLER_MANAGER"),
];

struct Program {
    name: &'static str,
    /// Environment variable with its path, for this command and for the tests.
    variable: &'static str,
    package: &'static str,
    /// Source of this project that the program is built from, if any; go.sum covers all other.
    source: &'static str,
}

impl Program {
    /// Whether the other tests can run without it.
    fn is_optional(&self) -> bool {
        BUILT_ONLY
            .iter()
            .any(|(_, variable)| *variable == self.variable)
    }

    fn module(&self) -> &'static Module {
        match self.variable {
            "HYDRA" => &go::ISSUER,
            "COSIGN" => &go::COSIGN,
            "SPIRE_SERVER" | "SPIRE_AGENT" => &go::WORKLOAD_API,
            EARLIER => &go::CONTROL_PLANE_EARLIER,
            _ => &go::CONTROL_PLANE,
        }
    }

    /// The release of Kubernetes that the program belongs to.
    fn kubernetes(&self) -> &'static str {
        let module = match self.variable {
            EARLIER => &go::CONTROL_PLANE_EARLIER,
            _ => &go::CONTROL_PLANE,
        };
        module.pinned("k8s.io/kubernetes")
    }

    /// Further build options: Hydra has SQLite, in C, only with a tag.
    fn tags(&self) -> &'static [&'static str] {
        match self.variable {
            "HYDRA" => &["-tags=sqlite"],
            _ => &[],
        }
    }
}

/// Finds or builds each program. Without Go, optional programs may be missing from the result.
///
/// Returns at once if nothing has changed. A concurrent run waits for the first.
pub(super) fn provide() -> Result<Vec<Tool>, Error> {
    provide_each(&PROGRAMS)
}

/// As [`provide`], the programs of long tests.
pub(super) fn provide_for_long_tests() -> Result<Vec<Tool>, Error> {
    provide_each(&FOR_LONG_TESTS)
}

fn provide_each(programs: &[Program]) -> Result<Vec<Tool>, Error> {
    let home = directory().join("kubernetes");
    fs::create_dir_all(&home).map_err(Error::file("create", &home))?;
    let _lock = lock(&home.join(".lock"))?;

    let (mut tools, mut missing) = (Vec::new(), Vec::new());
    for program in programs {
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
            // Without Go the other tests can still run.
            Some(_) if missing.iter().all(|program| program.is_optional()) => {
                for Program { name, variable, .. } in missing {
                    say(&format!("NOT BUILT, Go is missing: {name}"));
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

/// An existing program from the environment: by its own variable, or by the directory of several.
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
            "{variable} is set, but {} is missing at {}; correct it, or unset it to build the \
             program with Go",
            program.name,
            path.display()
        ))),
    }
}

/// The stamp is written last, so it proves a complete build of this recipe.
fn is_built(program: &Program, built: &Path) -> bool {
    let stamp = fs::read_to_string(stamp(built));
    built.is_file() && stamp.is_ok_and(|made_from| made_from == recipe(program))
}

fn stamp(built: &Path) -> PathBuf {
    built.with_extension("made-from")
}

/// All inputs of the build in full text, so that no digest is needed.
fn recipe(program: &Program) -> String {
    let Program {
        package, source, ..
    } = program;
    let (ldflags, tags) = (ldflags(program), program.tags().concat());
    let Module { manifest, sums, .. } = program.module();
    format!("{package} {ldflags}{tags}\n{source}\n{manifest}\n{sums}")
}

/// Without these flags the API server reports version v0.0.0-master.
fn ldflags(program: &Program) -> String {
    let version = program.kubernetes();
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut number = || numbers.next().unwrap_or_default();
    let (major, minor) = (number(), number());
    let set = "-X k8s.io/component-base/version";
    format!("-s -w {set}.gitVersion={version} {set}.gitMajor={major} {set}.gitMinor={minor}")
}

fn no_go(problem: &str, missing: &[&Program]) -> Error {
    let variables: Vec<_> = missing
        .iter()
        .filter(|program| !program.is_optional())
        .map(|program| program.variable)
        .collect();
    Error::Refused(format!(
        "Go {} is needed to build Kubernetes {} for the tests, and {problem}; install it (Go 1.21 or \
         later downloads this release by itself, unless GOTOOLCHAIN is `local`), or set the paths of existing \
         programs in {}, or their directory in {ASSETS}",
        go::CONTROL_PLANE.pinned("go"),
        go::CONTROL_PLANE.pinned("k8s.io/kubernetes"),
        variables.join(", ")
    ))
}

/// Builds one program after the other. Each gets its final name after its build.
fn build(missing: &[&Program], home: &Path) -> Result<(), Error> {
    say(&format!(
        "building {} program(s) for the tests of Kubernetes {} with Go; the first build \
         takes minutes on 2 cores",
        missing.len(),
        missing.first().map_or("", |program| program.kubernetes())
    ));
    let partial = home.join("partial");
    scratch(&partial)?;
    for (index, program) in missing.iter().enumerate() {
        let Program { name, package, .. } = program;
        let number = index + 1;
        say(&format!("[{number}/{}] {name} ({package})", missing.len()));

        let start = Instant::now();
        let (new, built) = (partial.join(name), home.join(name));
        let args = ["build", "-trimpath", "-buildvcs=false", "-ldflags"];
        let mut build = program.module().command("go", &args);
        build.arg(ldflags(program)).args(program.tags());
        if program.variable.starts_with("SPIRE_") {
            let manifest = spire::without_clouds(&partial)?;
            build.arg("-mod=mod").arg("-modfile").arg(manifest);
        }
        process::run(build.arg("-o").arg(&new).arg(package))?;

        // Remove the stamp before its program is replaced.
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
