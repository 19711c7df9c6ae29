//! Finds the file that kube-apiserver on this node gets with `--encryption-provider-config`: by its
//! process, by the manifest of its static pod (kubeadm, RKE2, OpenShift), or by the configuration of
//! K3s and RKE2. Reads only.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

const FLAG: &str = "encryption-provider-config";
/// Names OpenShift's file with the arguments of kube-apiserver.
const OPENSHIFT_FLAG: &str = "openshift-config";
/// Passes an argument on to the kube-apiserver within K3s and RKE2.
const EMBEDDED_FLAG: &str = "kube-apiserver-arg";

const MANIFESTS: [&str; 3] = [
    "etc/kubernetes/manifests/kube-apiserver.yaml",
    "var/lib/rancher/rke2/agent/pod-manifests/kube-apiserver.yaml",
    "etc/kubernetes/manifests/kube-apiserver-pod.yaml",
];
const EMBEDDED_CONFIGS: [&str; 2] = [
    "etc/rancher/k3s/config.yaml",
    "etc/rancher/rke2/config.yaml",
];
/// Written by K3s with `secrets-encryption`, and by RKE2.
const EMBEDDED_DEFAULTS: [&str; 2] = [
    "var/lib/rancher/k3s/server/cred/encryption-config.json",
    "var/lib/rancher/rke2/server/cred/encryption-config.json",
];
/// Size limit of a file in bytes, far above any real one.
const MAX_BYTES: u64 = 1 << 20;

/// Result of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// The file, as a path of this node.
    File {
        path: PathBuf,
        /// Process or file that names it.
        named_by: String,
    },
    /// A kube-apiserver runs without the flag.
    WithoutFlag { named_by: String },
    /// Several running kube-apiservers have different files.
    Several(Vec<PathBuf>),
    /// No sign of a kube-apiserver on this node.
    Nothing,
}

/// Looks below `root`, the root directory of the node.
#[must_use]
pub fn locate(root: &Path) -> Located {
    let found = processes(root);
    let files: BTreeMap<&Path, &Located> = found
        .iter()
        .filter_map(|located| match located {
            Located::File { path, .. } => Some((&**path, located)),
            _ => None,
        })
        .collect();
    if files.len() > 1 {
        return Located::Several(files.keys().map(|path| path.to_path_buf()).collect());
    }
    let running = files.into_values().next().or(found.first());
    let running = running.cloned();
    running
        .or_else(|| MANIFESTS.iter().find_map(|file| manifest(root, file)))
        .or_else(|| {
            EMBEDDED_CONFIGS
                .iter()
                .find_map(|file| embedded(root, file))
        })
        .or_else(|| {
            let mut defaults = EMBEDDED_DEFAULTS.iter().map(|file| root.join(file));
            let path = defaults.find(|path| path.exists())?;
            let named_by = "the default of K3s and RKE2".to_owned();
            Some(Located::File { path, named_by })
        })
        .unwrap_or(Located::Nothing)
}

/// All running kube-apiservers, each with its file within its own mount namespace.
fn processes(root: &Path) -> Vec<Located> {
    let Ok(entries) = fs::read_dir(root.join("proc")) else {
        return Vec::new();
    };
    let of_process = |directory: PathBuf| {
        let pid: u32 = directory.file_name()?.to_str()?.parse().ok()?;
        let bytes = fs::read(directory.join("cmdline")).ok()?;
        let arguments: Vec<_> = bytes
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let (program, rest) = arguments.split_first()?;
        let name = Path::new(program.split(' ').next()?).file_name()?;
        let embedded = match name.to_str()? {
            "kube-apiserver" => false,
            "hyperkube" if rest.first().is_some_and(|it| it == "kube-apiserver") => false,
            // A retitled process has all words in one argument.
            "k3s"
                if program.ends_with(" server")
                    || rest.first().is_some_and(|it| it == "server") =>
            {
                true
            }
            _ => return None,
        };
        let place = |path: &str| {
            let path = path.trim_start_matches('/');
            let inside = directory.join("root").join(path);
            let outside = root.join(path);
            let id = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
            match (id(&inside), id(&outside)) {
                (None, _) => outside,
                // Outside a container the plain path is the same file.
                (own, of_node) if own == of_node => outside,
                _ => inside,
            }
        };
        let named = match embedded {
            false => flag(rest, FLAG).or_else(|| openshift(&place(&flag(rest, OPENSHIFT_FLAG)?))),
            true => argument(&flags(rest, EMBEDDED_FLAG)),
        };
        let named_by = format!("process {pid}");
        match named {
            Some(path) => Some(Located::File {
                path: place(&path),
                named_by,
            }),
            // Its file may name the flag as well.
            None if embedded => None,
            None => Some(Located::WithoutFlag { named_by }),
        }
    };
    let mut directories: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    directories.sort();
    directories.into_iter().filter_map(of_process).collect()
}

/// The value of `--name=value` or `--name value`; the last one counts.
fn flag(arguments: &[String], name: &str) -> Option<String> {
    flags(arguments, name).pop()
}

fn flags(arguments: &[String], name: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let Some(word) = word.strip_prefix("--").and_then(|it| it.strip_prefix(name)) else {
            continue;
        };
        match word.strip_prefix('=') {
            Some(value) => values.push(value.to_owned()),
            None if word.is_empty() => values.extend(rest.next().cloned()),
            None => {}
        }
    }
    values
}

/// The file among arguments in the form `name=value`.
fn argument(arguments: &[String]) -> Option<String> {
    let mut all = arguments.iter().rev();
    let value = all.find_map(|it| it.strip_prefix(FLAG)?.strip_prefix('='))?;
    Some(value.to_owned())
}

/// The manifest of a static pod.
fn manifest(root: &Path, file: &str) -> Option<Located> {
    #[derive(Deserialize)]
    struct Pod {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        containers: Vec<Container>,
        #[serde(default)]
        volumes: Vec<Volume>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Container {
        #[serde(default)]
        command: Vec<String>,
        #[serde(default)]
        args: Vec<String>,
        #[serde(default)]
        volume_mounts: Vec<Mount>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mount {
        name: String,
        mount_path: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Volume {
        name: String,
        #[serde(default)]
        host_path: Option<HostPath>,
    }
    #[derive(Deserialize)]
    struct HostPath {
        path: String,
    }

    let pod: Pod = document(&root.join(file))?;
    let volumes = &pod.spec.volumes;
    let mut apiserver = false;
    for container in &pod.spec.containers {
        let words: Vec<_> = container
            .command
            .iter()
            .chain(&container.args)
            // OpenShift starts it by a shell.
            .flat_map(|word| word.split_whitespace())
            .map(str::to_owned)
            .collect();
        apiserver |= words.iter().any(|it| it.ends_with("kube-apiserver"));
        // The longest mount that holds the path leads to the node.
        let place = |path: &str| {
            let mounts = container.volume_mounts.iter().filter_map(|mount| {
                let inside = Path::new(path).strip_prefix(&mount.mount_path).ok()?;
                let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
                let host = volume.host_path.as_ref()?.path.trim_start_matches('/');
                let host = match inside.as_os_str().is_empty() {
                    true => PathBuf::from(host),
                    false => Path::new(host).join(inside),
                };
                Some((mount.mount_path.len(), host))
            });
            let host = mounts.max_by_key(|(length, _)| *length);
            let host = host.map(|(_, host)| host);
            root.join(host.unwrap_or_else(|| path.trim_start_matches('/').into()))
        };
        let named =
            flag(&words, FLAG).or_else(|| openshift(&place(&flag(&words, OPENSHIFT_FLAG)?)));
        if let Some(path) = named {
            return Some(Located::File {
                path: place(&path),
                named_by: format!("/{file}"),
            });
        }
    }
    apiserver.then(|| Located::WithoutFlag {
        named_by: format!("/{file}"),
    })
}

/// OpenShift's `KubeAPIServerConfig`.
fn openshift(file: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        api_server_arguments: BTreeMap<String, Vec<String>>,
    }
    let mut config: Config = document(file)?;
    config.api_server_arguments.remove(FLAG)?.pop()
}

/// The file of K3s or RKE2.
fn embedded(root: &Path, file: &str) -> Option<Located> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "kube-apiserver-arg")]
        arguments: OneOrMore,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let config: Config = document(&root.join(file))?;
    let path = match &config.arguments {
        OneOrMore::One(argument_) => argument(std::slice::from_ref(argument_))?,
        OneOrMore::More(arguments) => argument(arguments)?,
    };
    Some(Located::File {
        path: root.join(path.trim_start_matches('/')),
        named_by: format!("/{file}"),
    })
}

fn document<T: for<'d> Deserialize<'d>>(path: &Path) -> Option<T> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    serde_saphyr::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "files of a test are no state")]
    fn write(root: &TempDir, path: &str, content: impl AsRef<[u8]>) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The file found, below the root, and what names it.
    fn found(root: &TempDir) -> (String, String) {
        match locate(root.path()) {
            Located::File { path, named_by } => {
                let path = path.strip_prefix(root.path()).unwrap();
                (path.display().to_string(), named_by)
            }
            other => panic!("{other:?}"),
        }
    }

    fn says(file: &str, named_by: &str) -> (String, String) {
        (file.to_owned(), named_by.to_owned())
    }

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --advertise-address=192.0.2.1
    - --encryption-provider-config=/etc/kubernetes/enc/config.yaml
    volumeMounts:
    - {mountPath: /etc/kubernetes, name: all, readOnly: true}
    - {mountPath: /etc/kubernetes/enc, name: enc}
  volumes:
  - {name: all, hostPath: {path: /elsewhere}}
  - {name: enc, hostPath: {path: /srv/encryption, type: DirectoryOrCreate}}
  - {name: token, projected: {sources: []}}
";

    #[test]
    fn a_manifest_names_the_file_within_its_mounts() {
        let root = TempDir::new().unwrap();
        assert_eq!(locate(root.path()), Located::Nothing);
        write(&root, MANIFESTS[0], POD);
        let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
        assert_eq!(found(&root), says("srv/encryption/config.yaml", manifest));

        let without = POD.replace("--encryption-provider-config", "--other");
        write(&root, MANIFESTS[0], without);
        let named_by = manifest.to_owned();
        assert_eq!(locate(root.path()), Located::WithoutFlag { named_by });
        write(&root, MANIFESTS[0], "kind: [");
        assert_eq!(locate(root.path()), Located::Nothing);

        let words = POD.replace("config=", "config\n    - ");
        write(&root, MANIFESTS[1], words);
        let manifest = format!("/{}", MANIFESTS[1]);
        assert_eq!(found(&root), says("srv/encryption/config.yaml", &manifest));
    }

    #[test]
    fn a_running_process_is_truer_than_any_file() {
        let root = TempDir::new().unwrap();
        write(&root, MANIFESTS[0], POD);
        write(&root, "proc/self/cmdline", "kube-apiserver\0--x\0");
        write(
            &root,
            "proc/7/cmdline",
            "/usr/bin/kubelet\0--encryption-provider-config=/no\0",
        );
        let line = "/usr/local/bin/kube-apiserver\0--encryption-provider-config\0/in/enc.yaml\0";
        write(&root, "proc/8/cmdline", line);
        assert_eq!(found(&root), says("in/enc.yaml", "process 8"));
        // Within the container, if this user may look there.
        write(&root, "container/in/enc.yaml", "");
        symlink(
            root.path().join("container"),
            root.path().join("proc/8/root"),
        )
        .unwrap();
        assert_eq!(found(&root), says("proc/8/root/in/enc.yaml", "process 8"));

        write(&root, "proc/9/cmdline", line.replace("/in/", "/other/"));
        assert!(matches!(locate(root.path()), Located::Several(files) if files.len() == 2));
    }

    #[test]
    fn k3s_and_rke2_pass_it_on() {
        let root = TempDir::new().unwrap();
        write(&root, EMBEDDED_DEFAULTS[0], "{}");
        let default = "the default of K3s and RKE2";
        assert_eq!(found(&root), says(EMBEDDED_DEFAULTS[0], default));
        for argument in [
            "encryption-provider-config=/etc/enc.yaml",
            "[a=b, \"encryption-provider-config=/etc/enc.yaml\"]",
        ] {
            let config = format!("tls-san: x\nkube-apiserver-arg: {argument}\n");
            write(&root, EMBEDDED_CONFIGS[0], config);
            let named_by = format!("/{}", EMBEDDED_CONFIGS[0]);
            assert_eq!(found(&root), says("etc/enc.yaml", &named_by));
        }
        let line = "/usr/local/bin/k3s\0server\0--kube-apiserver-arg=a=b\0--kube-apiserver-arg\0\
            encryption-provider-config=/run/enc.yaml\0";
        write(&root, "proc/8/cmdline", line);
        assert_eq!(found(&root), says("run/enc.yaml", "process 8"));
        // Without the argument its file counts.
        write(&root, "proc/8/cmdline", "/usr/local/bin/k3s server\0\0\0");
        assert_eq!(found(&root).0, "etc/enc.yaml");
    }

    #[test]
    fn openshift_names_it_in_a_file_of_its_own() {
        let root = TempDir::new().unwrap();
        let pod = "
spec:
  containers:
  - command: [/bin/bash, -ec]
    args:
    - exec hyperkube kube-apiserver --openshift-config=/static/configmaps/config/config.yaml -v=2
    volumeMounts: [{name: resources, mountPath: /static}]
  volumes: [{name: resources, hostPath: {path: /etc/kubernetes/static-pod-resources/pod-7}}]
";
        write(&root, MANIFESTS[2], pod);
        let resources = "etc/kubernetes/static-pod-resources/pod-7";
        let config = "{\"apiServerArguments\": {\"encryption-provider-config\": \
            [\"/static/secrets/encryption-config/encryption-config\"]}}";
        write(
            &root,
            &format!("{resources}/configmaps/config/config.yaml"),
            config,
        );
        let file = format!("{resources}/secrets/encryption-config/encryption-config");
        assert_eq!(found(&root), says(&file, &format!("/{}", MANIFESTS[2])));
    }
}
