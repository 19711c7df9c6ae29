//! kube-controller-manager with three controllers: that of storage version migrations, the garbage
//! collector, whose view of the objects the first one uses, and the binder of volumes and claims.

use super::ControlPlane;
use crate::{
    daemon::{Daemon, program},
    files,
};

/// Ends with this value.
pub struct ControllerManager {
    _daemon: Daemon,
}

impl ControllerManager {
    /// Starts it as the administrator of this API server, and returns at once.
    ///
    /// # Panics
    /// When the program is missing. The message has the command to install it.
    #[must_use]
    pub fn spawn(control_plane: &ControlPlane) -> Self {
        let kubeconfig = control_plane.file("controller-manager.json");
        files::replace(&kubeconfig, control_plane.kubeconfig().as_bytes(), 0o600);
        let arguments = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "--controllers=storage-version-migrator-controller,garbage-collector-controller,\
             persistentvolume-binder-controller"
                .into(),
            "--feature-gates=StorageVersionMigrator=true".into(),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
        ];
        let program = program(
            "KUBE_CONTROLLER_MANAGER",
            "kubernetes/kube-controller-manager",
            "cargo xtask test --kubernetes --long",
        );
        let log = control_plane.file("kube-controller-manager.log");
        Self {
            _daemon: Daemon::spawn(&program, &arguments, &log),
        }
    }
}
