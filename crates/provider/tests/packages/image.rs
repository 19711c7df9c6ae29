//! The image, run like a container with the mounts of the manifest that `init` makes for it.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use assert_cmd::cargo::cargo_bin;
use openbao_lab::{child::GuardedChild, port::free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    files::{self, SocketDir},
    openbao::shared_openbao,
    tenant::{Tenant, Timing},
    wait::wait_until,
};

use crate::{ARCH, VERSION, artifact, succeed};

/// User and group of the image.
const USER: u32 = 65532;
/// Group with access to the socket.
const SOCKETS: u32 = 990;

/// In a mount and process namespace: the root is read-only, and `MODE FROM TO` lines are mounts.
/// Capabilities end with the change of the user.
const CONTAINER: &str = r#"set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd "$1"
mount --bind rootfs rootfs
mkdir -p rootfs/proc rootfs/dev
mount -t proc proc rootfs/proc
mount --rbind /dev rootfs/dev
while read -r mode from to; do
    if [ -d "$from" ]; then mkdir -p "rootfs$to"; else mkdir -p "rootfs${to%/*}"; touch "rootfs$to"; fi
    mount --bind "$from" "rootfs$to"
    mount -o "remount,bind,nosuid,nodev,$mode" "rootfs$to"
done <mounts
mount -o remount,bind,ro rootfs
shift
# This shell is the first process: its end is that of the others.
setpriv --no-new-privs chroot --userspec=65532:65532 --groups=990 rootfs "$@"
exit 1
"#;

#[tokio::test]
async fn an_image_serves_with_the_mounts_of_its_manifest() {
    // Tests have no static program of their own.
    let variants: &[&str] = if env::var_os("DIST").is_some() {
        &["", "-pkcs11"]
    } else {
        &["-pkcs11"]
    };
    for variant in variants {
        let image = Image::unpack(variant);
        image.assert_minimal();
        image.serve().await;
        if variant.is_empty() {
            image.assert_kit();
        }
    }
}

/// An unpacked image.
struct Image {
    variant: String,
    directory: TempDir,
    bundle: PathBuf,
    /// `config.json` of the runtime.
    config: Value,
    /// Of the index.
    digest: String,
}

impl Image {
    fn unpack(variant: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let layout = directory.path().join("layout");
        let bundle = directory.path().join("bundle");
        fs::create_dir(&layout).unwrap();
        succeed(
            Command::new("tar")
                .arg("--extract")
                .arg("--directory")
                .arg(&layout)
                .arg("--file")
                .arg(artifact(&format!("image{variant}.tar"))),
        );
        let mut top = json(&layout.join("index.json"));
        let index = top["manifests"][0].clone();
        let digest = index["digest"].as_str().unwrap().to_owned();

        // umoci takes an index of several architectures for an ambiguous name.
        let of_arches = json(&layout.join("blobs").join(digest.replace(':', "/")));
        let mut of_arches = of_arches["manifests"].as_array().unwrap().iter();
        let manifest = of_arches.find(|it| it["platform"]["architecture"] == ARCH);
        let mut manifest = manifest.unwrap().clone();
        manifest["annotations"] = index["annotations"].clone();
        top["manifests"] = json!([manifest]);
        let top = top.to_string();
        files::replace(&layout.join("index.json"), top.as_bytes(), 0o644);
        succeed(
            Command::new("umoci")
                .args(["unpack", "--image"])
                .arg(format!("{}:{VERSION}{variant}", layout.display()))
                .arg(&bundle),
        );
        Self {
            variant: variant.to_owned(),
            config: json(&bundle.join("config.json")),
            directory,
            bundle,
            digest,
        }
    }

    /// The name that the kit has for the manifest.
    fn reference(&self) -> String {
        format!("localhost/bao-kms-provider@{}", self.digest)
    }

    fn assert_minimal(&self) {
        let process = &self.config["process"];
        assert_eq!(process["args"], json!(["/usr/bin/bao-kms-provider"]));
        assert_eq!(process["user"], json!({"uid": USER, "gid": USER}));
        let label = &self.config["annotations"]["org.opencontainers.image.version"];
        assert_eq!(*label, format!("{VERSION}{}", self.variant));

        let files = succeed(
            Command::new("find")
                .args(["rootfs", "-type", "f", "-printf", "%f\n"])
                .current_dir(&self.bundle),
        );
        let known = |name: &str| {
            let glibc = ["ld-linux", "lib", "nsswitch.conf"];
            let glibc = glibc.iter().any(|start| name.starts_with(start));
            name == "bao-kms-provider" || glibc && self.variant == "-pkcs11"
        };
        assert!(files.lines().all(known), "{files}");
    }

    /// Starts the image on a host prepared as `init` describes, and calls it.
    async fn serve(&self) {
        let server = shared_openbao().await;
        let tenant = Tenant::new(server).await;
        let made = self.init(&tenant);
        let manifest = fs::read_to_string(made.join("bao-kms-provider.yaml")).unwrap();
        let manifest: Value = serde_saphyr::from_str(&manifest).unwrap();

        let host = TempDir::new().unwrap();
        let place = |path: &str| host.path().join(path.trim_start_matches('/'));
        for (path, mode, owner, group) in [
            ("/etc/openbao-kms/tls", 0o755, 0, 0),
            ("/var/lib/openbao-kms/credentials", 0o750, 0, USER),
            ("/var/lib/openbao-kms/state", 0o750, USER, USER),
            ("/run/openbao-kms", 0o2750, USER, SOCKETS),
        ] {
            fs::create_dir_all(place(path)).unwrap();
            chown(place(path), Some(owner), Some(group)).unwrap();
            fs::set_permissions(place(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (from, to, group) in [
            (
                made.join("config.yaml"),
                "/etc/openbao-kms/config.yaml",
                USER,
            ),
            (tenant.ca_file(), "/etc/openbao-kms/tls/ca.crt", 0),
            (
                tenant.jwt_file(),
                "/var/lib/openbao-kms/credentials/identity.jwt",
                USER,
            ),
        ] {
            let mode = if group == 0 { 0o644 } else { 0o640 };
            files::replace(&place(to), &fs::read(from).unwrap(), mode);
            chown(place(to), Some(0), Some(group)).unwrap();
        }

        let log = host.path().join("log");
        let pod = &manifest["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], USER);
        let mounts = mounts(pod, host.path());
        files::replace(&self.bundle.join("mounts"), mounts.as_bytes(), 0o600);
        let mut arguments = vec![
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "/bin/sh",
            "-c",
            CONTAINER,
            "sh",
            self.bundle.to_str().unwrap(),
            "/usr/bin/bao-kms-provider",
        ];
        let own = pod["containers"][0]["args"].as_array().unwrap();
        arguments.extend(own.iter().map(|argument| argument.as_str().unwrap()));
        let output = File::create(&log).unwrap();
        let mut container = GuardedChild::spawn(Path::new("unshare"), &arguments, output).unwrap();

        let socket = place("/run/openbao-kms/kms.sock");
        let logged = || fs::read_to_string(&log).unwrap();
        wait_until(Duration::from_secs(60), "the socket", async || {
            assert!(container.exited().unwrap().is_none(), "{}", logged());
            socket.exists()
        })
        .await;
        let at = fs::metadata(&socket).unwrap();
        assert_eq!(
            (at.uid(), at.gid(), at.mode() & 0o777),
            (USER, SOCKETS, 0o660)
        );
        let state = place("/var/lib/openbao-kms/state/key-registry.json");
        assert_eq!(fs::metadata(state).unwrap().uid(), USER);

        // Status, Encrypt and Decrypt.
        let answer = succeed(
            Command::new(cargo_bin("bao-kms-provider"))
                .args(["probe", "--wait", "30s", "--socket"])
                .arg(&socket),
        );
        assert!(answer.contains("obk2."), "{answer}\n{}", logged());
        #[cfg(feature = "kubernetes-tests")]
        self.encrypt(&socket).await;
        container.kill().unwrap();
    }

    /// A real kube-apiserver encrypts with the container.
    #[cfg(feature = "kubernetes-tests")]
    async fn encrypt(&self, socket: &Path) {
        use testkit::control_plane::{ControlPlane, Kind, identity, kms};

        let mut control_plane = ControlPlane::new().await;
        control_plane.encrypt_with(&[kms("of-the-image", socket), identity()]);
        control_plane.start(&[]).await;
        let (kind, text) = (Kind::Secret, "plain text of the secret");
        control_plane.write(kind, "one", text).await.unwrap();
        let stored = control_plane.stored(kind, "one");
        assert!(stored.starts_with(b"k8s:enc:kms:v2:of-the-image:"));
        // Another process has to ask the provider for the seed.
        control_plane.stop().await;
        control_plane.start(&[]).await;
        let read = control_plane.read(kind, "one").await.unwrap();
        assert_eq!(read.as_deref(), Some(text));
        control_plane.stop().await;
    }

    /// The kit has this image, its name, and a program for the host.
    fn assert_kit(&self) {
        let kit = self.directory.path().join("kit");
        fs::create_dir(&kit).unwrap();
        let archive = artifact("static-pod_linux_ARCH.tar.gz");
        let mut unpack = Command::new("tar");
        unpack.args(["--extract", "--gzip", "--strip-components", "1"]);
        succeed(
            unpack
                .arg("--directory")
                .arg(&kit)
                .arg("--file")
                .arg(archive),
        );
        let file = artifact("image.tar");
        let packed = fs::read(kit.join(file.file_name().unwrap())).unwrap();
        assert!(packed == fs::read(file).unwrap());
        let name = fs::read_to_string(kit.join("image-ref.txt")).unwrap();
        assert_eq!(name.trim(), self.reference());
        succeed(Command::new(kit.join("bin/bao-kms-provider")).arg("version"));
    }

    /// The files of `init` for this image.
    fn init(&self, tenant: &Tenant) -> PathBuf {
        let mut values = tenant.config(&SocketDir::new(), Timing::default());
        values["server"] = json!({
            "metricsAddress": format!("127.0.0.1:{}", free_port().unwrap()),
            "healthAddress": format!("127.0.0.1:{}", free_port().unwrap()),
        });
        values["openbao"]
            .as_object_mut()
            .unwrap()
            .remove("caCertFile");
        values["auth"]["jwt"]
            .as_object_mut()
            .unwrap()
            .remove("jwtFile");
        values.as_object_mut().unwrap().remove("state");
        let file = self.directory.path().join("values.yaml");
        files::replace(&file, values.to_string().as_bytes(), 0o640);
        let made = self.directory.path().join("made");
        succeed(
            Command::new(cargo_bin("bao-kms-provider"))
                .args([
                    "init",
                    "--model",
                    "static-pod",
                    "--socket-gid",
                    "990",
                    "--image",
                ])
                .arg(self.reference())
                .arg("--values")
                .arg(&file)
                .arg("--out")
                .arg(&made),
        );
        made
    }
}

/// Lines of `MODE FROM TO` for the volumes of the pod, on a host below `host`.
fn mounts(pod: &Value, host: &Path) -> String {
    let volumes = pod["volumes"].as_array().unwrap();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let lines = mounts.iter().map(|mount| {
        let mut volumes = volumes.iter();
        let volume = volumes
            .find(|volume| volume["name"] == mount["name"])
            .unwrap();
        let from = volume["hostPath"]["path"].as_str().unwrap();
        let mode = if mount["readOnly"] == true {
            "ro"
        } else {
            "rw"
        };
        let to = mount["mountPath"].as_str().unwrap();
        format!("{mode} {}{from} {to}\n", host.display())
    });
    lines.collect()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}
