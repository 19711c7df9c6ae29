//! The packaged unit on a node.

use std::path::{Path, PathBuf};

use super::disk::Root;

const NAME: &str = "bao-kms-provider.service";
/// The first one that has the unit wins, as for systemd.
const DIRECTORIES: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Services that start kube-apiserver.
pub const BOOT_SERVICES: [&str; 3] = ["kubelet.service", "k3s.service", "rke2-server.service"];

/// The unit with its drop-ins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub path: PathBuf,
    text: String,
}

impl Unit {
    #[must_use]
    pub fn find(root: &Root) -> Option<Self> {
        DIRECTORIES.iter().find_map(|directory| {
            let path = Path::new(directory).join(NAME);
            let mut text = root.text(&path).ok()?;
            for directory in DIRECTORIES {
                let drop_ins = Path::new(directory).join(format!("{NAME}.d"));
                for name in root.names(&drop_ins).unwrap_or_default() {
                    text.push('\n');
                    text.push_str(&root.text(&drop_ins.join(name)).unwrap_or_default());
                }
            }
            Some(Self { path, text })
        })
    }

    /// Its path, or that of the package.
    pub(super) fn installed_at(root: &Root) -> PathBuf {
        let packaged = || Path::new("/usr/lib/systemd/system").join(NAME);
        Self::find(root).map_or_else(packaged, |unit| unit.path)
    }

    /// The installed service that starts kube-apiserver without waiting for this unit.
    #[must_use]
    pub fn starts_after(&self, root: &Root) -> Option<&'static str> {
        let before = self
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("Before="));
        let before: Vec<_> = before.flat_map(str::split_whitespace).collect();
        let installed = |service: &&&str| {
            let mut files = DIRECTORIES.iter().map(|it| Path::new(it).join(service));
            files.any(|path| matches!(root.look(&path), Ok(Some(_))))
        };
        let mut services = BOOT_SERVICES.iter().filter(installed);
        services.find(|service| !before.contains(*service)).copied()
    }
}
