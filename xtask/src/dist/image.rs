//! OCI images without a container engine, and the kit for a static pod.
//!
//! An image is JSON and one archive (opencontainers/image-spec). A few values of our own JSON are
//! shorter than the calls of an image tool, and give the same digest on every run.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::contents::Entry;
use super::program::Programs;
use super::{Arch, NAME, Release, archive, gzip, read, read_text, sha256, write};
use crate::process::{Error, say};

const USER: &str = "65532:65532";
const PROGRAM: &str = "usr/bin/bao-kms-provider";
/// Registry of the name of a preloaded image: no host has it, so nothing pulls another one.
const REGISTRY: &str = "localhost";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The parts of glibc that a program or a PKCS#11 module may load.
const GLIBC: [&str; 7] = [
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
];

pub(super) fn make(release: &Release, programs: &[Programs], out: &Path) -> Result<(), Error> {
    let with_glibc = programs.iter().map(|of_arch| {
        let mut files = glibc(of_arch.arch)?;
        files.push(Entry::program(PROGRAM, &of_arch.glibc)?);
        Ok((of_arch.arch, files))
    });
    let with_glibc = with_glibc.collect::<Result<Vec<_>, Error>>()?;
    let with_pkcs11 = Image::new(release, "-pkcs11", with_glibc)?;
    with_pkcs11.write(out)?;

    let fixed = programs.iter().filter_map(|of_arch| {
        let musl = of_arch.musl.as_ref()?;
        let files = Entry::program(PROGRAM, musl).map(|program| vec![program]);
        Some(files.map(|files| (of_arch.arch, files)))
    });
    let fixed = fixed.collect::<Result<Vec<_>, Error>>()?;
    // Tests package one program: its kit has the image with PKCS#11.
    let image = if fixed.is_empty() {
        with_pkcs11
    } else {
        let image = Image::new(release, "", fixed)?;
        image.write(out)?;
        image
    };
    for of_arch in programs {
        let program = of_arch.musl.as_ref().unwrap_or(&of_arch.glibc);
        kit(release, of_arch.arch, program, &image, out)?;
    }
    Ok(())
}

/// An image for one or more architectures, in an archive.
struct Image {
    file: String,
    archive: Vec<u8>,
    /// The name with the digest of the index.
    reference: String,
}

impl Image {
    fn new(
        release: &Release,
        variant: &str,
        arches: Vec<(&'static Arch, Vec<Entry>)>,
    ) -> Result<Self, Error> {
        let mut layout = Layout::default();
        let mut manifests = Vec::new();
        for (arch, files) in arches {
            let tar = archive::tar(&files, "", release.epoch)?;
            let diff_id = sha256(&tar);
            let layer = layout.add(LAYER, gzip(release.level, tar)?);
            let config = json!({
                "architecture": arch.name,
                "os": "linux",
                "created": release.date,
                "config": {
                    "User": USER,
                    "Entrypoint": [format!("/{PROGRAM}")],
                    "Env": ["PATH=/usr/bin"],
                    "WorkingDir": "/",
                    "Labels": labels(release, variant),
                },
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
                "history": [{"created": release.date, "created_by": "cargo xtask dist"}],
            });
            let config = layout.add_json(CONFIG, &config);
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": [layer],
                "annotations": labels(release, variant),
            });
            let mut manifest = layout.add_json(MANIFEST, &manifest);
            manifest["platform"] = json!({"os": "linux", "architecture": arch.name});
            manifests.push(manifest);
        }

        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": manifests,
            "annotations": labels(release, variant),
        });
        let mut index = layout.add_json(INDEX, &index);
        let digest = index["digest"].as_str().unwrap_or_default().to_owned();
        let tag = format!("{}{variant}", release.version);
        index["annotations"] = json!({
            "org.opencontainers.image.ref.name": tag,
            "io.containerd.image.name": format!("{REGISTRY}/{NAME}:{tag}"),
        });
        let top = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]});
        let version = json!({"imageLayoutVersion": "1.0.0"});
        let mut files = layout.blobs;
        files.push(Entry::new("index.json", top.to_string().into_bytes()));
        files.push(Entry::new("oci-layout", version.to_string().into_bytes()));
        Ok(Self {
            file: format!("{NAME}_{}_image{variant}.tar", release.version),
            archive: archive::tar(&files, "", release.epoch)?,
            reference: format!("{REGISTRY}/{NAME}@{digest}"),
        })
    }

    fn write(&self, out: &Path) -> Result<(), Error> {
        say(&format!("{}: {}", self.file, self.reference));
        write(&out.join(&self.file), &self.archive, 0o644)
    }
}

/// Blobs of an image layout, each under its digest.
#[derive(Default)]
struct Layout {
    blobs: Vec<Entry>,
}

impl Layout {
    /// Returns the descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let size = bytes.len();
        self.blobs
            .push(Entry::new(format!("blobs/sha256/{digest}"), bytes));
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
    }

    fn add_json(&mut self, media_type: &str, value: &Value) -> Value {
        self.add(media_type, value.to_string().into_bytes())
    }
}

fn labels(release: &Release, variant: &str) -> Value {
    json!({
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.description": "Kubernetes KMS v2 provider backed by OpenBao Transit",
        "org.opencontainers.image.version": format!("{}{variant}", release.version),
        "org.opencontainers.image.revision": release.commit,
        "org.opencontainers.image.created": release.date,
        "org.opencontainers.image.licenses": "Apache-2.0",
    })
}

/// Debian's glibc: of this machine, or for cross-compiling.
fn glibc(arch: &Arch) -> Result<Vec<Entry>, Error> {
    let tuple = format!("{}-linux-gnu", arch.machine);
    let places = [format!("/lib/{tuple}"), format!("/usr/{tuple}/lib")].map(PathBuf::from);
    let found = places.iter().find(|place| place.join("libc.so.6").exists());
    let Some(libraries) = found else {
        return Err(Error::Refused(format!(
            "glibc for {name} is missing; install it with\n  apt-get install libc6-{name}-cross libgcc-s1-{name}-cross",
            name = arch.name
        )));
    };
    let mut files = Vec::new();
    let loader = arch.loader.rsplit('/').next().unwrap_or_default();
    let mut loader = Entry::new(arch.loader, read(&libraries.join(loader))?);
    loader.mode = 0o755;
    files.push(loader);
    for name in GLIBC {
        let bytes = read(&libraries.join(name))?;
        files.push(Entry::new(format!("lib/{tuple}/{name}"), bytes));
    }
    // Without it, glibc asks DNS before /etc/hosts.
    files.push(Entry::new(
        "etc/nsswitch.conf",
        b"hosts: files dns\n".to_vec(),
    ));
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// Everything that a host with a static pod needs, without a registry.
fn kit(
    release: &Release,
    arch: &Arch,
    program: &Path,
    image: &Image,
    out: &Path,
) -> Result<(), Error> {
    let readme = read_text("packaging/static-pod/README.md")?
        .replace("@VERSION@", &release.version)
        .replace("@IMAGE@", &image.file);
    let files = [
        Entry::new("LICENSE", read_text("LICENSE")?.into_bytes()),
        Entry::new("README.md", readme.into_bytes()),
        Entry::program("bin/bao-kms-provider", program)?,
        Entry::new(&image.file, image.archive.clone()),
        Entry::new(
            "image-ref.txt",
            format!("{}\n", image.reference).into_bytes(),
        ),
    ];
    let name = release.file_name("_static-pod", arch, ".tar.gz");
    let folder = format!("{NAME}_{}_static-pod/", release.version);
    let tar = archive::tar(&files, &folder, release.epoch)?;
    say(&name);
    write(&out.join(name), &gzip(release.level, tar)?, 0o644)
}
