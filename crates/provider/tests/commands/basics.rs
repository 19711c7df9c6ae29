//! Help, version, completions, manual pages, policy, and the exit codes of mistakes.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use super::{run, vectors, write};

#[test]
fn without_a_command_the_help_is_printed() {
    let bare = run(&[]);
    assert_eq!((bare.code, bare.err.as_str()), (0, ""));
    let asked = run(&["--help"]);
    assert_eq!((asked.code, asked.err.as_str()), (0, ""));
    assert_eq!(bare.out, asked.out);
    insta::assert_snapshot!("help", asked.out);
}

#[test]
fn mistakes_on_the_command_line_exit_2_and_say_so_on_standard_error() {
    for arguments in [
        &["nothing"][..],
        &["version", "--nothing"],
        &["help", "nothing"],
        &["version", "surplus"],
        &["version", "--output"],
        &["version", "--output", "toml"],
        &["version", "--quiet", "--verbose"],
        &["completion", "tcsh"],
        &["completion"],
        &["key-id"],
        &["key-id", "--version", "0", "--created-at", "1"],
        &["key-id", "--version", "1", "--created-at", "2024-05-15"],
        &["policy"],
        &["inspect-state", "/"],
    ] {
        let refused = run(arguments);
        assert_eq!(refused.code, 2, "{arguments:?}");
        assert_eq!(refused.out, "", "{arguments:?}");
        assert_ne!(refused.err, "", "{arguments:?}");
    }
}

#[test]
fn a_command_without_a_result_has_the_same_envelope_in_json() {
    for (arguments, code, verdict, step) in [
        (
            &["doctor", "--nothing"][..],
            2,
            "invalid_usage",
            "doctor --help",
        ),
        (&["inspect-state", "/"], 2, "invalid_usage", "--help"),
        (
            &["rotation-plan", "--config", "/nonexistent"],
            3,
            "config_lost",
            "restore /nonexistent",
        ),
    ] {
        let text = run(arguments);
        assert_eq!((text.code, text.out.as_str()), (code, ""), "{arguments:?}");
        for json in [&["--output", "json"][..], &["--output=JSON"]] {
            let failed = run(&[arguments, json].concat());
            assert_eq!(
                (failed.code, &failed.err),
                (code, &text.err),
                "{arguments:?}"
            );
            let failed = failed.json();
            assert_eq!(failed["command"], arguments[0]);
            assert_eq!(failed["exitCode"], code);
            assert_eq!(failed["verdict"], verdict, "{failed:#}");
            assert_eq!(failed["cause"], verdict);
            assert!(failed["found"].is_string(), "{failed:#}");
            let steps = failed["nextSteps"].to_string();
            assert!(steps.contains(step), "{steps}");
        }
    }
}

#[test]
fn version_says_what_was_built() {
    insta::assert_snapshot!("version", run(&["version"]).transcript());
    let shown = run(&["version", "--output", "JSON"]).json();
    for (member, value) in [
        ("command", "version"),
        ("version", "v0.1.0"),
        ("commit", "unknown"),
        ("buildDate", "unknown"),
        ("dirty", "unknown"),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    assert_eq!(run(&["--version"]).out, "bao-kms-provider v0.1.0\n");
}

#[test]
fn yaml_has_the_document_of_json() {
    for arguments in [
        &["version"][..],
        &["doctor", "--nothing"],
        &["rotation-plan", "--config", "/nonexistent"],
    ] {
        let mut json = run(&[arguments, &["-o", "json"]].concat()).json();
        let yaml = run(&[arguments, &["-o", "yaml"]].concat());
        assert!(yaml.out.starts_with("---\n"), "{}", yaml.out);
        let mut yaml: serde_json::Value = serde_saphyr::from_str(&yaml.out).unwrap();
        for document in [&mut json, &mut yaml] {
            document["time"].take();
        }
        assert_eq!(yaml, json);
    }
}

#[test]
fn a_quiet_command_answers_by_its_exit_code_alone() {
    let good = run(&["version", "-q"]);
    assert_eq!(
        (good.code, good.transcript()),
        (0, "exit code 0\n--- stdout\n--- stderr\n".to_owned())
    );
    let nodes = ["--state", "a=/nonexistent/a", "--state", "b=/nonexistent/b"];
    let bad = run(&[&["compare-nodes", "-q"], &nodes[..]].concat());
    assert_eq!((bad.code, bad.out.as_str()), (4, ""), "{}", bad.err);
}

/// Types into an interactive shell after `set_up`, and returns its terminal; `None` without that shell.
fn typed(shell: &[&str], set_up: &str, keys: &str) -> Option<String> {
    Command::new(shell[0]).arg("--version").output().ok()?;
    let program = assert_cmd::cargo::cargo_bin("bao-kms-provider");
    let directory = program.parent().unwrap().to_str().unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(shell.join(" "))
        .arg("/dev/null")
        .env_clear()
        .env("PATH", format!("{directory}:/usr/bin:/bin"))
        .env("HOME", home.path())
        .env("TERM", "dumb")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = terminal.stdin.take().unwrap();
    write!(input, "{set_up}\n{keys}\nexit\n").unwrap();
    drop(input);
    let finished = terminal.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&finished.stdout).into_owned())
}

/// The completed line runs: only `version --output json` prints these members.
#[test]
fn shells_complete_commands_options_and_values() {
    for (shell, set_up) in [
        (
            &["bash", "--norc", "--noprofile", "-i"][..],
            "source <(bao-kms-provider completion bash)",
        ),
        (
            &["zsh", "-f", "-i"],
            "autoload -Uz compinit; compinit -u -D; source <(bao-kms-provider completion zsh)",
        ),
        (
            &["fish", "--no-config", "-i"],
            "bao-kms-provider completion fish | source",
        ),
    ] {
        let keys = "bao-kms-provider versio\t--outp\tjs\t";
        match typed(shell, set_up, keys) {
            Some(terminal) => {
                let name = shell[0];
                assert!(
                    terminal.contains("\"command\": \"version\""),
                    "{name}: {terminal}"
                );
            }
            None => eprintln!("skipped: no {}", shell[0]),
        }
    }
}

#[test]
fn every_shell_gets_a_completion_that_knows_the_commands() {
    for shell in ["bash", "fish", "powershell", "zsh"] {
        let script = run(&["completion", shell]);
        assert_eq!((script.code, script.err.as_str()), (0, ""), "{shell}");
        assert!(script.out.contains("inspect-state"), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let written = run(&["man", directory.path().to_str().unwrap()]);
    assert_eq!((written.code, written.err.as_str()), (0, ""));
    for page in ["bao-kms-provider.1", "bao-kms-provider-inspect-state.1"] {
        assert!(
            fs::read_to_string(directory.path().join(page))
                .unwrap()
                .contains(".TH")
        );
    }
    for page in ["bao-kms-provider-probe.1", "bao-kms-provider-scan-etcd.1"] {
        let page = fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(page.contains("Examples:"), "{page}");
    }
    let refused = run(&["man", directory.path().join("none").to_str().unwrap()]);
    assert_eq!(refused.code, 1);
}

#[test]
fn the_policy_grants_what_is_needed_and_nothing_else() {
    let policy = |more: &[&str]| {
        let path = "tests/config/good/oauth2.yaml";
        run(&[&["policy", "openbao", "--config", path], more].concat())
    };
    let whole = policy(&[]);
    insta::assert_snapshot!("policy", whole.transcript());
    assert_eq!(policy(&["--include-token-renewal"]).out, whole.out);
    assert_eq!(policy(&["--include-token-renewal=true"]).out, whole.out);
    let without = policy(&["--include-token-renewal=false"]).out;
    assert!(whole.out.starts_with(&without) && !without.contains("renew-self"));
}

#[test]
fn a_policy_that_would_grant_more_is_not_printed() {
    let directory = tempfile::tempdir().unwrap();
    let text = super::config_for(&vectors("key_id.json")["keys"][0]["scope"]);
    let config = write(
        directory.path(),
        "config.yaml",
        &text.replace("mountPath: transit", "mountPath: \"+\""),
    );
    let refused = run(&["policy", "openbao", "--config", config.to_str().unwrap()]);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    insta::assert_snapshot!("policy-refused", refused.err);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let nodes = "--metrics a=http://127.0.0.1:1 --metrics b=http://127.0.0.1:1";
    for (command, code) in [
        ("config schema".to_owned(), 0),
        // Nor does it make a verdict a good one.
        (format!("compare-nodes {nodes}"), 5),
        (format!("compare-nodes {nodes} --output json"), 5),
    ] {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("bao-kms-provider"))
            .args(command.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let finished = child.wait_with_output().unwrap();
        assert_eq!(finished.status.code(), Some(code), "{command}");
        assert_eq!(finished.stderr, b"");
    }
}
