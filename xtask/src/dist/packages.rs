//! Packages for Debian and RPM, and the same files in an archive for other hosts.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::contents::{self, DOC, Entry, Texts, lay_out};
use super::program::Programs;
use super::{Arch, NAME, Release, archive, empty, gzip, read_text, write};
use crate::process::{self, Error, say};

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

pub(super) fn make(
    release: &Release,
    programs: &Programs,
    texts: &Texts,
    out: &Path,
    work: &Path,
) -> Result<(), Error> {
    let arch = programs.arch;
    let entries = contents::host(&programs.glibc, texts)?;

    let name = release.file_name("_systemd", arch, ".tar.gz");
    let folder = format!("{NAME}_{}/", release.version);
    let tar = archive::tar(&entries, &folder, release.epoch)?;
    write(&out.join(&name), &gzip(release.level, tar)?, 0o644)?;
    say(&name);

    rpm(release, arch, &entries, out, work)?;
    deb(release, arch, entries, out, work)
}

fn deb(
    release: &Release,
    arch: &Arch,
    mut entries: Vec<Entry>,
    out: &Path,
    work: &Path,
) -> Result<(), Error> {
    for entry in &mut entries {
        // Debian's zsh searches this directory instead.
        entry.path = entry
            .path
            .replace("zsh/site-functions", "zsh/vendor-completions");
    }
    let fill = |file: &str| {
        let text = read_text(&format!("packaging/deb/{file}"))?;
        let bytes = entries.iter().map(|entry| entry.bytes.len()).sum::<usize>();
        let values = [
            ("@VERSION@", release.package_version()),
            ("@ARCH@", arch.name.to_owned()),
            ("@KIB@", bytes.div_ceil(1024).to_string()),
            ("@DATE@", date(release, "-R")?),
        ];
        let filled = values
            .iter()
            .fold(text, |text, (name, value)| text.replace(name, value));
        Ok::<_, Error>(filled.into_bytes())
    };
    let control = fill("control")?;
    let own = [
        Entry::new(format!("{DOC}/copyright"), fill("copyright")?),
        Entry::new(format!("{DOC}/changelog.gz"), gzip(9, fill("changelog")?)?),
        Entry::new(
            format!("usr/share/lintian/overrides/{NAME}"),
            fill("lintian-overrides")?,
        ),
    ];
    entries.extend(own);

    let root = work.join("deb");
    empty(&root)?;
    lay_out(&entries, &root)?;
    let mut digests = Command::new("md5sum");
    digests
        .args(entries.iter().map(|entry| &entry.path))
        .current_dir(&root);
    let digests = process::output(&mut digests)?;
    lay_out(
        &[
            Entry::new("DEBIAN/control", control),
            Entry::new("DEBIAN/md5sums", digests.into_bytes()),
        ],
        &root,
    )?;
    for script in SCRIPTS {
        let text = read_text(&format!("packaging/scripts/{script}"))?;
        write(&root.join("DEBIAN").join(script), text.as_bytes(), 0o755)?;
    }

    let name = release.file_name("", arch, ".deb");
    let mut build = Command::new("dpkg-deb");
    build
        .args(["--build", "--root-owner-group", "-Zxz"])
        .arg(format!("-z{}", release.level))
        .arg(&root)
        .arg(out.join(name))
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    process::run(&mut build)
}

fn rpm(
    release: &Release,
    arch: &Arch,
    entries: &[Entry],
    out: &Path,
    work: &Path,
) -> Result<(), Error> {
    let (root, built) = (work.join("rpm-root"), work.join("rpm-built"));
    empty(&root)?;
    lay_out(entries, &root)?;

    let mut spec = read_text("packaging/rpm/bao-kms-provider.spec")?
        .replace("@VERSION@", &release.package_version())
        .replace("@LEVEL@", &release.level.to_string())
        .replace("@DATE@", &date(release, "+%a %b %d %Y")?)
        .replace("@ROOT@", &root.display().to_string())
        .replace("@FILES@", &listed(entries));
    for script in SCRIPTS {
        let text = read_text(&format!("packaging/scripts/{script}"))?;
        spec = spec.replace(&format!("@{}@", script.to_uppercase()), &text);
    }
    let path = work.join("package.spec");
    write(&path, spec.as_bytes(), 0o644)?;

    let mut build = Command::new("rpmbuild");
    build
        .args(["-bb", "--quiet", "--target"])
        .arg(format!("{}-linux", arch.machine))
        .arg("--define")
        .arg(format!("_topdir {}", built.display()))
        .arg(&path)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    process::run(&mut build)?;
    let version = release.package_version();
    let name = format!("RPMS/{m}/{NAME}-{version}-1.{m}.rpm", m = arch.machine);
    let to = out.join(release.file_name("", arch, ".rpm"));
    fs::copy(built.join(name), &to).map_err(Error::file("write", &to))?;
    Ok(())
}

/// Section `%files`: each file, and the directories that only this package uses.
fn listed(entries: &[Entry]) -> String {
    let mut lines = String::new();
    let mut directories = Vec::new();
    for entry in entries {
        for (at, _) in entry.path.match_indices('/') {
            let directory = entry.path.get(..at).unwrap_or_default();
            let is_own = directory.split('/').any(|part| part == NAME);
            if is_own && !directories.contains(&directory) {
                directories.push(directory);
                lines.push_str(&format!("%dir /{directory}\n"));
            }
        }
        let kind = if entry.path.starts_with(DOC) {
            "%doc "
        } else {
            ""
        };
        lines.push_str(&format!(
            "%attr({:04o},root,root) {kind}/{}\n",
            entry.mode, entry.path
        ));
    }
    lines
}

/// The time of the commit in a format of `date`.
fn date(release: &Release, format: &str) -> Result<String, Error> {
    let mut date = Command::new("date");
    date.args(["-u", format, "-d"])
        .arg(format!("@{}", release.epoch));
    process::output(date.env("LC_ALL", "C")).map(|text| text.trim().to_owned())
}
