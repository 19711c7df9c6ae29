//! `rewrite` as far as it gets without an API server: kubeconfig and EncryptionConfiguration.

use tempfile::TempDir;

use super::{finish, program, run, write};

/// Appears in files, and never in output.
const MARKER: &str = "marker-of-a-token";

fn kubeconfig(cluster: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         contexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:9\"{cluster}}}}}]\n\
         users: [{{name: u, user: {{token: {MARKER}}}}}]\n"
    )
}

#[test]
fn a_kubeconfig_of_no_use_is_named_without_its_content() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = write(directory.path(), name, text);
        path.to_str().unwrap().to_owned()
    };
    let malformed = file("malformed", &format!("users: [{{token: {MARKER}\n"));
    let unverified = file(
        "unverified",
        &kubeconfig(", insecure-skip-tls-verify: true"),
    );
    let unreachable = file("unreachable", &kubeconfig(""));
    for (path, verdict, code) in [
        ("/nonexistent", "kubeconfig_unusable", 5),
        (&malformed, "kubeconfig_unusable", 5),
        (&unverified, "api_server_unverified", 5),
        (&unreachable, "api_server_unreachable", 5),
    ] {
        let rewrite = ["rewrite", "--resource", "secrets", "--kubeconfig", path];
        let ended = run(&[&rewrite[..], &["-o", "json"]].concat());
        assert_eq!(ended.code, code, "{}", ended.err);
        assert_eq!(ended.json()["verdict"], verdict, "{}", ended.err);
        let said = format!("{}{}", ended.out, ended.err);
        assert!(!said.contains(MARKER), "{said}");
    }
}

#[test]
fn the_kubeconfig_is_found_as_kubectl_finds_it() {
    let home = TempDir::new().unwrap();
    let kube = home.path().join(".kube");
    testkit::files::directory(&kube, 0o700);
    write(&kube, "config", &kubeconfig(""));
    let rewrite = ["rewrite", "--resource", "secrets"];
    let ended = finish(program(&rewrite).env("HOME", home.path()));
    assert!(
        ended.err.contains("--kubeconfig comes from HOME"),
        "{}",
        ended.err
    );
    let named = kube.join("config");
    let ended = finish(program(&rewrite).env("KUBECONFIG", &named));
    let note = "--kubeconfig comes from KUBECONFIG";
    assert!(ended.err.contains(note), "{}", ended.err);
}

#[test]
fn an_encryption_configuration_of_no_use_ends_it_before_any_request() {
    let directory = TempDir::new().unwrap();
    let text = format!("resources: [{{secret: {MARKER}\n");
    let file = write(directory.path(), "encryption.yaml", &text);
    let file = file.to_str().unwrap();
    for path in [file, "/nonexistent"] {
        let rewrite = ["rewrite", "--encryption-config", path, "-o", "json"];
        let ended = run(&rewrite);
        assert_eq!(ended.code, 4, "{}{}", ended.out, ended.err);
        ended.json();
        assert!(!ended.out.contains(MARKER), "{}", ended.out);
    }
    let both = [
        "rewrite",
        "--encryption-config",
        file,
        "--resource",
        "secrets",
    ];
    assert_eq!(run(&both).code, 2);
    assert_eq!(run(&["rewrite"]).code, 2);
}
