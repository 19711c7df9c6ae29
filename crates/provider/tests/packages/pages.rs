//! Pages about the files of a release: verification, images, and nodes without a network.

use std::{fs, path::Path, time::Duration};

use openbao_lab::child::GuardedChild;
use tempfile::TempDir;
use testkit::{
    files,
    fresh_root::FreshRoot,
    runbook::{Done, Shell, Site, Walk},
    wait::wait_until,
};

use crate::{ARCH, DIST, VERSION, artifact};

const DEB: &str = "bao-kms-provider_0.1.0_linux_amd64.deb";

/// The machine with the downloads, one without a network, and the medium between them.
struct Machines {
    near: FreshRoot,
    _far: FreshRoot,
    shells: [Shell; 2],
    _medium: TempDir,
    _containerd: [GuardedChild; 2],
}

impl Machines {
    async fn new() -> Self {
        let medium = TempDir::new().unwrap();
        let [near, far] = [(); 2].map(|()| FreshRoot::new(&[medium.path()]));
        for file in fs::read_dir(&*DIST).unwrap() {
            let file = file.unwrap();
            let to = near.path("/root").join(file.file_name());
            fs::copy(file.path(), to).unwrap();
        }
        let public = DIST.with_extension("pub");
        fs::copy(&public, near.path("/root/release.pub")).unwrap();

        let containerd = [start_containerd(&near).await, start_containerd(&far).await];
        let mut without_network = vec!["unshare".to_owned(), "--net".to_owned()];
        without_network.extend(far.entrance());
        let mut isolated = Shell::on_another_root(without_network, Path::new("/root"));
        isolated.set("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        isolated.set("LC_ALL", "C.UTF-8");
        let mut shells = [near.shell(), isolated];
        for shell in &mut shells {
            shell.name("/media/transfer", medium.path().display());
            shell.name("0.1.0", VERSION);
            shell.name("amd64", ARCH);
            // Tests have no static program of their own.
            if !artifact("image.tar").exists() {
                shell.name("_image.tar", "_image-pkcs11.tar");
            }
        }
        Self {
            near,
            _far: far,
            shells,
            _medium: medium,
            _containerd: containerd,
        }
    }

    fn change(&self, command: &str) {
        let done = self.near.run(&format!("cd /root && {command}"));
        assert!(done.status.success(), "{done:?}");
    }
}

/// With a disk of its own: containerd cannot mount images over the layers of the machine.
async fn start_containerd(machine: &FreshRoot) -> GuardedChild {
    let mut words = machine.entrance();
    let run = "mkdir -p /var/lib/containerd /var/lib/containers \
        && mount -t tmpfs tmpfs /var/lib/containerd && mount -t tmpfs tmpfs /var/lib/containers \
        && exec containerd --log-level error";
    words.extend(["/bin/sh", "-c", run].map(str::to_owned));
    let log = fs::File::create(machine.path("/var/log/containerd.log")).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (first, words) = words.split_first().unwrap();
    let mut child = GuardedChild::spawn(Path::new(first), words, log).unwrap();
    wait_until(Duration::from_secs(60), "containerd", async || {
        assert!(child.exited().unwrap().is_none());
        machine.run("ctr version").status.success()
    })
    .await;
    child
}

impl Site for Machines {
    fn shell(&self, machine: &str) -> &Shell {
        &self.shells[usize::from(machine == "far")]
    }

    async fn instead(&mut self, _machine: &str, _words: &[String]) -> Option<Done> {
        None
    }

    fn configure(&mut self, _sections: &str) {
        panic!("the pages have no settings");
    }

    fn typed(&mut self, _command: &str) -> Option<String> {
        None
    }

    async fn settle(&mut self, _machine: &str, _command: &str) {}
}

#[tokio::test]
async fn a_release_is_verified_and_carried_to_a_machine_without_a_network() {
    let mut machines = Machines::new().await;
    let deb = DEB.replace("0.1.0", VERSION).replace("amd64", ARCH);

    let mut walk = Walk::of("install/verify");
    walk.to_incident(&mut machines, "the package is changed")
        .await;
    machines.change(&format!("printf x >>{deb}"));
    let incident = "the list has the digest of the changed package";
    walk.to_incident(&mut machines, incident).await;
    machines.change(&format!(
        "sed -i \"s/.*  {deb}$/$(sha256sum {deb})/\" SHA256SUMS"
    ));
    walk.to_incident(&mut machines, "the files are downloaded again")
        .await;
    for name in ["SHA256SUMS", &deb] {
        let bytes = fs::read(DIST.join(name)).unwrap();
        files::replace(&machines.near.path("/root").join(name), &bytes, 0o644);
    }
    walk.to_end(&mut machines).await;

    Walk::of("install/air-gapped").to_end(&mut machines).await;
    Walk::of("install/image").to_end(&mut machines).await;
}
