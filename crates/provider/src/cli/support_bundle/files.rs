//! Kind, mode, owner, size and time of the files that a configuration names, without their content.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use kms_node::{
    config::Loaded,
    report::{table::Table, utc},
};

/// The files by path, each after its directory, with all entries of the directories of the state and
/// of the socket.
pub(super) fn table(loaded: &Loaded) -> Table {
    let mut table = Table::new(
        "files",
        ["mode", "owner", "group", "size", "modified", "kind", "path"],
    );
    for path in paths(loaded) {
        table.row(row(&path));
    }
    table
}

fn paths(loaded: &Loaded) -> BTreeSet<PathBuf> {
    let named = loaded.settings.iter().filter_map(|it| it.value.as_str());
    let named = named
        .filter(|value| value.starts_with('/'))
        .map(PathBuf::from);
    let mut paths: BTreeSet<_> = named.chain([loaded.path.clone()]).collect();

    let config = &loaded.config;
    let socket = config.server.socket_path.parent();
    for directory in [Some(config.state_path.directory()), socket]
        .into_iter()
        .flatten()
    {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        paths.extend(entries.map(|entry| entry.path()));
    }
    let directories: Vec<_> = paths
        .iter()
        .filter_map(|path| path.parent())
        .map(Path::to_owned)
        .collect();
    paths.extend(directories);
    paths
}

fn row(path: &Path) -> [String; 7] {
    let shown = path.display().to_string();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => "missing".to_owned(),
                _ => error.to_string(),
            };
            let unknown = String::new;
            return [
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                kind,
                shown,
            ];
        }
    };
    let kind = found.file_type();
    let kind = match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symbolic link",
        () if kind.is_socket() => "socket",
        () => "other",
    };
    let modified = u64::try_from(found.mtime()).unwrap_or_default();
    [
        format!("{:04o}", found.mode() & 0o7777),
        found.uid().to_string(),
        found.gid().to_string(),
        found.len().to_string(),
        utc(modified),
        kind.to_owned(),
        shown,
    ]
}
