//! Release programs: linked to glibc with PKCS#11, and static without it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ARCHES, Arch, NAME, Release};
use crate::process::{self, Error};
use crate::tools;

/// The oldest supported glibc: that of RHEL 8 and Debian 10.
const GLIBC: &str = "2.28";

/// The programs for one architecture.
pub(super) struct Programs {
    pub(super) arch: &'static Arch,
    pub(super) glibc: PathBuf,
    /// A static program cannot load PKCS#11 modules.
    pub(super) musl: Option<PathBuf>,
}

impl Programs {
    /// Takes a ready program for this machine, without its symbols.
    pub(super) fn given(program: &Path) -> Result<Self, Error> {
        let arch = ARCHES.iter().find(|arch| arch.is_host());
        let glibc = process::root().join("target/stripped");
        let mut strip = Command::new("strip");
        process::run(strip.arg("-o").arg(&glibc).arg(program))?;
        Ok(Self {
            arch: arch.ok_or_else(|| Error::Refused("unknown architecture".into()))?,
            glibc,
            musl: None,
        })
    }

    /// Compiles the programs with the C compiler and the libraries of Zig, for every machine alike.
    pub(super) fn build(
        arches: &[&'static Arch],
        with_static: bool,
        release: &Release,
    ) -> Result<Vec<Self>, Error> {
        compile(arches, "gnu", &format!(".{GLIBC}"), &[], release)?;
        if with_static {
            compile(arches, "musl", "", &STATIC, release)?;
        }
        let programs = arches.iter().map(|&arch| Self {
            arch,
            glibc: compiled(arch, "gnu"),
            musl: with_static.then(|| compiled(arch, "musl")),
        });
        Ok(programs.collect())
    }

    /// The programs under their published names.
    pub(super) fn published(&self, release: &Release) -> Vec<Published<'_>> {
        let name = release.file_name("", self.arch, "");
        let with_pkcs11 = name.replacen(NAME, &format!("{NAME}-certauth-pkcs11"), 1);
        let glibc = (with_pkcs11, Some(&self.glibc), "gnu", &[][..]);
        let musl = (name, self.musl.as_ref(), "musl", &STATIC[..]);
        let published = [glibc, musl].into_iter();
        let published = published.filter_map(|(name, path, libc, features)| {
            Some(Published {
                name,
                path: path?,
                target: target(self.arch, libc),
                features,
            })
        });
        published.collect()
    }
}

/// A program as published.
pub(super) struct Published<'a> {
    pub(super) name: String,
    pub(super) path: &'a Path,
    /// Of Rust.
    pub(super) target: String,
    /// Options of cargo.
    pub(super) features: &'static [&'static str],
}

const STATIC: [&str; 1] = ["--no-default-features"];

fn target(arch: &Arch, libc: &str) -> String {
    format!("{}-unknown-linux-{libc}", arch.machine)
}

/// Compiles for all architectures in one run: linking a program keeps one core busy for minutes.
fn compile(
    arches: &[&Arch],
    libc: &str,
    floor: &str,
    features: &[&str],
    release: &Release,
) -> Result<(), Error> {
    let targets: Vec<_> = arches.iter().map(|arch| target(arch, libc)).collect();
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add"]).args(&targets);
    process::run(rustup.current_dir(process::root()))?;

    let zig = tools::zig()?;
    let mut build = Command::new(zig.join("bin/cargo-zigbuild"));
    build
        .args(["zigbuild", "--release", "--locked", "--package", "provider"])
        .args(["--bin", NAME])
        .args(targets.iter().map(|it| format!("--target={it}{floor}")))
        .args(features)
        .current_dir(process::root())
        .env("CARGO_ZIGBUILD_ZIG_PATH", zig.join("ziglang/zig"))
        .env("RUSTFLAGS", remapped("--remap-path-prefix="))
        .env("CFLAGS", remapped("-ffile-prefix-map="))
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        .env("BUILD_COMMIT", &release.commit)
        .env("BUILD_DATE", &release.date)
        .env("BUILD_DIRTY", release.dirty.to_string());
    process::run(&mut build)
}

fn compiled(arch: &Arch, libc: &str) -> PathBuf {
    let target = target(arch, libc);
    process::root().join(format!("target/{target}/release/{NAME}"))
}

/// Flags of a compiler that keep paths of this machine out of the programs.
fn remapped(option: &str) -> String {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let places = [
        (Some(process::root().to_owned()), "/build"),
        (home, "/cargo"),
    ];
    let flags = places.iter().filter_map(|(from, to)| {
        let from = from.as_ref()?;
        Some(format!("{option}{}={to}", from.display()))
    });
    flags.collect::<Vec<_>>().join(" ")
}
