//! `compare-nodes` as far as it gets without a node.

use super::run;

#[test]
fn what_cannot_be_compared_is_a_usage_error() {
    let a = "a=http://127.0.0.1:1";
    for nodes in [
        &[][..],
        &["--metrics", a],
        &["--metrics", a, "--metrics", a],
        &["--metrics", a, "--socket", "a=/run/x.sock"],
        &["--metrics", a, "--metrics", "http://127.0.0.1:1"],
        &["--metrics", a, "--metrics", "=http://127.0.0.1:1"],
        &["--metrics", a, "--metrics", "b c=http://127.0.0.1:1"],
        &["--metrics", a, "--metrics", "b=https://127.0.0.1:1"],
        &["--metrics", a, "--metrics", "b=127.0.0.1:1"],
        &["--metrics", a, "--socket", "b="],
        &["--metrics", a, "--state", "b=/"],
        &["--metrics", a, "--state", "b=x", "--timeout", "0s"],
    ] {
        let refused = run(&[&["compare-nodes"], nodes].concat());
        assert_eq!(refused.code, 2, "{nodes:?}: {}", refused.err);
        assert_eq!(refused.out, "", "{nodes:?}");
        assert_ne!(refused.err, "", "{nodes:?}");
    }
}

#[test]
fn a_configuration_that_is_not_valid_exits_3() {
    let nodes = ["--state", "a=/nonexistent/a", "--state", "b=/nonexistent/b"];
    let config = ["--config", "/nonexistent"];
    let refused = run(&[&["compare-nodes"], &nodes[..], &config].concat());
    assert_eq!(refused.code, 3, "{}", refused.err);
}
