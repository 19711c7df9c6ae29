//! The way back: what `node prepare` and `node start` made, as far as it is unchanged.

use std::{io, path::PathBuf};

use super::{
    Content, Given, Place, Step, Want,
    disk::{Kind, Root},
    manifest, plan,
};
use crate::{directory::Directory, plan::Model};

/// A file or directory to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub name: &'static str,
    pub path: PathBuf,
    pub status: Status,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Remove,
    /// A directory, which is removed if it is empty by then.
    RemoveIfEmpty,
    /// Why it stays.
    Kept(String),
}

/// Everything that exists of an installation, in the order of the removal. `delete_state` includes the
/// files in the directory of the state.
///
/// # Errors
/// The directory of the state is unreadable.
pub fn removals(
    installation: &Directory,
    root: &Root,
    delete_state: bool,
) -> io::Result<Vec<Removal>> {
    let steps = plan(installation, root, &Given::default());
    let state = installation.loaded.config.state_path.directory();
    let pod = matches!(installation.model, Model::StaticPod { .. });
    let mut all = Vec::new();
    if pod {
        all.extend(file(&manifest(installation), root));
    }
    all.extend(steps.iter().filter_map(|step| file(step, root)));
    if delete_state && matches!(root.look(state), Ok(Some(_))) {
        for name in root.names(state)? {
            let path = state.join(name);
            let is_file = matches!(root.look(&path)?, Some(entry) if entry.kind == Kind::File);
            all.push(Removal {
                name: "state",
                path,
                status: match is_file {
                    true => Status::Remove,
                    false => Status::Kept("is no file of a state".to_owned()),
                },
            });
        }
    }
    // Inner directories first.
    let directories = steps.iter().rev().filter_map(|step| match step.want {
        Want::Directory { place, .. } => (place != Place::Shared).then_some(&step.path),
        _ => None,
    });
    for path in directories {
        if matches!(root.look(path), Ok(Some(entry)) if entry.kind == Kind::Directory) {
            all.push(Removal {
                name: "directory",
                path: path.clone(),
                status: match path == state && !delete_state {
                    true => {
                        Status::Kept("holds the state: only --delete-state removes it".to_owned())
                    }
                    false => Status::RemoveIfEmpty,
                },
            });
        }
    }
    Ok(all)
}

/// A file of a step, if it exists.
fn file(step: &Step, root: &Root) -> Option<Removal> {
    let Want::File { content, .. } = &step.want else {
        return None;
    };
    root.look(&step.path).ok()??;
    let status = match content {
        Content::Awaited | Content::Given(_) => {
            Status::Kept("came from the operator: remove it by hand".to_owned())
        }
        Content::Made { text, also, .. } => match root.bytes(&step.path) {
            Err(error) => Status::Kept(format!("cannot be compared: {error}")),
            Ok(found) => {
                let also = also.as_ref().unwrap_or(text);
                match found == text.as_bytes() || found == also.as_bytes() {
                    true => Status::Remove,
                    false => Status::Kept("was changed after the installation".to_owned()),
                }
            }
        },
    };
    Some(Removal {
        name: step.name,
        path: step.path.clone(),
        status,
    })
}

impl Removal {
    /// Removes it unless it is kept. `false` if it stays.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn apply(&self, root: &Root) -> io::Result<bool> {
        match self.status {
            Status::Remove => root.remove(&self.path, false),
            Status::RemoveIfEmpty => root.remove(&self.path, true),
            Status::Kept(_) => Ok(false),
        }
    }
}
