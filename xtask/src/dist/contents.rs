//! Files of an installation on a host, the same in every kind of package.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::program::Programs;
use super::{NAME, empty, gzip, read, set_mode, write};
use crate::process::{self, Error};

/// Shared data of the package.
const SHARE: &str = "usr/share/bao-kms-provider";
pub(super) const DOC: &str = "usr/share/doc/bao-kms-provider";

/// A file, with its path below the root.
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

impl Entry {
    pub(super) fn new(path: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            mode: 0o644,
            bytes,
        }
    }

    pub(super) fn program(path: &str, file: &Path) -> Result<Self, Error> {
        Ok(Self {
            mode: 0o755,
            ..Self::new(path, read(file)?)
        })
    }
}

/// Texts that the program prints: manual pages, and completion for shells.
pub(super) struct Texts(Vec<(String, Vec<u8>)>);

impl Texts {
    /// Runs the program of this machine, or builds one.
    pub(super) fn print(programs: &[Programs], work: &Path) -> Result<Self, Error> {
        let ready = programs.iter().find(|of_arch| of_arch.arch.is_host());
        let program = || match ready {
            Some(ready) => Command::new(&ready.glibc),
            None => process::cargo(&[
                "run",
                "--quiet",
                "--locked",
                "--package",
                "provider",
                "--bin",
                NAME,
                "--",
            ]),
        };

        let pages = work.join("man");
        empty(&pages)?;
        process::run(program().arg("man").arg(&pages))?;
        let mut texts = Vec::new();
        for page in fs::read_dir(&pages).map_err(Error::file("read", &pages))? {
            let page = page.map_err(Error::file("read", &pages))?;
            let name = page.file_name().to_string_lossy().into_owned();
            texts.push((
                format!("usr/share/man/man1/{name}.gz"),
                gzip(9, read(&page.path())?)?,
            ));
        }

        for (shell, path) in [
            (
                "bash",
                "usr/share/bash-completion/completions/bao-kms-provider",
            ),
            ("zsh", "usr/share/zsh/site-functions/_bao-kms-provider"),
            (
                "fish",
                "usr/share/fish/vendor_completions.d/bao-kms-provider.fish",
            ),
        ] {
            let script = process::output(program().args(["completion", shell]))?;
            texts.push((path.to_owned(), script.into_bytes()));
        }
        Ok(Self(texts))
    }
}

/// All files, ordered by path.
pub(super) fn host(program: &Path, texts: &Texts) -> Result<Vec<Entry>, Error> {
    let mut entries = vec![Entry::program("usr/bin/bao-kms-provider", program)?];
    let fixed = [
        (
            "packaging/systemd/bao-kms-provider.service",
            "usr/lib/systemd/system/",
        ),
        (
            "packaging/systemd/bao-kms-provider.socket",
            "usr/lib/systemd/system/",
        ),
        (
            "packaging/systemd/bao-kms-provider@.service",
            "usr/lib/systemd/system/",
        ),
        (
            "packaging/systemd/bao-kms-provider@.socket",
            "usr/lib/systemd/system/",
        ),
        (
            "packaging/systemd/sysusers.d/bao-kms-provider.conf",
            "usr/lib/sysusers.d/",
        ),
        (
            "packaging/systemd/tmpfiles.d/bao-kms-provider.conf",
            "usr/lib/tmpfiles.d/",
        ),
        // systemd 252 would warn about it, and few hosts run drills: the operator copies them.
        (
            "packaging/systemd/bao-kms-provider.service.d/systemd-254.conf",
            "systemd/",
        ),
        ("packaging/systemd/bao-kms-drill.service", "drill/"),
        ("packaging/systemd/bao-kms-drill.timer", "drill/"),
        (
            "packaging/systemd/sysusers.d/bao-kms-drill.conf",
            "drill/sysusers.d/",
        ),
        (
            "packaging/prometheus/bao-kms-provider.rules.yaml",
            "prometheus/",
        ),
        ("packaging/grafana/bao-kms-provider.json", "grafana/"),
    ];
    for (source, directory) in fixed {
        let name = source.rsplit('/').next().unwrap_or(source);
        let directory = match directory {
            system if system.starts_with("usr/") => system.to_owned(),
            shared => format!("{SHARE}/{shared}"),
        };
        let bytes = read(&process::root().join(source))?;
        entries.push(Entry::new(format!("{directory}{name}"), bytes));
    }

    for name in ["README.md", "CHANGELOG.md", "LICENSE"] {
        let bytes = read(&process::root().join(name))?;
        entries.push(Entry::new(format!("{DOC}/{name}"), bytes));
    }
    let tracked = ["ls-files", "-z", "docs"];
    let mut git = Command::new("git");
    let pages = process::output(git.args(tracked).current_dir(process::root()))?;
    for page in pages.split_terminator('\0') {
        let bytes = read(&process::root().join(page))?;
        entries.push(Entry::new(format!("{DOC}/{page}"), bytes));
    }

    let texts = texts.0.iter();
    entries.extend(texts.map(|(path, bytes)| Entry::new(path, bytes.clone())));
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// Writes the files below `root`.
pub(super) fn lay_out(entries: &[Entry], root: &Path) -> Result<(), Error> {
    for entry in entries {
        let mut directory = root.to_owned();
        for part in entry
            .path
            .rsplit_once('/')
            .map_or("", |(parents, _)| parents)
            .split('/')
        {
            directory.push(part);
            if !directory.is_dir() {
                fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
                set_mode(&directory, 0o755)?;
            }
        }
        write(&root.join(&entry.path), &entry.bytes, entry.mode)?;
    }
    Ok(())
}
