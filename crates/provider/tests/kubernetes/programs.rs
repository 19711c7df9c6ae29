//! The programs that `cargo xtask test --kubernetes` gives the tests.

use std::{env, process::Command};

/// A kube-apiserver built without its version calls itself v0.0.0-master, and takes other defaults.
#[test]
fn the_api_server_and_etcd_tell_their_releases() {
    let kubernetes = version("KUBE_APISERVER", "--version");
    assert!(kubernetes.starts_with("Kubernetes v1."), "{kubernetes}");
    let etcd = version("ETCD", "--version");
    assert!(etcd.starts_with("etcd Version: 3."), "{etcd}");
    for (variable, name) in [("ETCDCTL", "etcdctl"), ("ETCDUTL", "etcdutl")] {
        let command = version(variable, "version");
        assert!(
            command.starts_with(&format!("{name} version: 3.")),
            "{command}"
        );
    }
}

fn version(variable: &str, option: &str) -> String {
    let path = env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set; use `cargo xtask test --kubernetes`"));
    let output = Command::new(path).arg(option).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
