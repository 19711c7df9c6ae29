//! cosign verifies our statements, and the signature of a release.

use std::{
    path::Path,
    process::{Command, Output},
};

use testkit::files;

use super::{Signing, Verified, envelope, openssl, payload, words};

/// cosign with an empty home, so that it finds no cache and no key.
fn cosign(home: &Signing, arguments: &[&str]) -> Output {
    let mut command = Command::new(testkit::cosign::cosign());
    command.env_clear().env("HOME", home.path("home"));
    command.args(arguments).output().unwrap()
}

#[track_caller]
fn assert_verdict(output: &Output, good: bool) {
    assert_eq!(output.status.success(), good, "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.contains("Verified OK"), good, "{said}");
}

#[tokio::test]
#[ignore = "long: cosign takes minutes to build"]
async fn cosign_accepts_our_statements_and_refuses_foreign_ones() {
    let verified = Verified::new().await;
    let snapshot = verified.snapshot.to_str().unwrap();
    let other = Signing::p256();
    for signing in [Signing::p256(), Signing::new(&["ED25519"])] {
        let finished = verified.run(&words(&signing.options("statement")));
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let statement = payload(&envelope(Path::new(&signing.path("statement"))));
        let kind = statement["predicateType"].as_str().unwrap();
        let verify = |key: &Signing, kind: &str, file: &str| {
            let (key, statement) = (key.path("key.pub"), signing.path("statement"));
            cosign(
                &signing,
                &[
                    "verify-blob-attestation",
                    "--insecure-ignore-tlog",
                    "--key",
                    &key,
                    "--signature",
                    &statement,
                    "--type",
                    kind,
                    file,
                ],
            )
        };
        assert_verdict(&verify(&signing, kind, snapshot), true);
        assert_verdict(&verify(&other, kind, snapshot), false);
        assert_verdict(&verify(&signing, "slsaprovenance1", snapshot), false);
        let another = signing.path("key.pub");
        assert_verdict(&verify(&signing, kind, &another), false);
    }
}

#[test]
#[ignore = "long: cosign takes minutes to build"]
fn cosign_accepts_the_signature_of_a_release() {
    let signing = Signing::p256();
    let (list, signature) = (signing.path("SHA256SUMS"), signing.path("SHA256SUMS.sig"));
    let (key, public) = (signing.path("key.pem"), signing.path("key.pub"));
    files::replace(Path::new(&list), b"0000  file\n", 0o644);
    // As `cargo xtask dist` signs.
    openssl(&["dgst", "-sha256", "-sign", &key, "-out", &signature, &list]);
    let verify = || {
        let options = ["verify-blob", "--insecure-ignore-tlog", "--key", &public];
        cosign(
            &signing,
            &[&options[..], &["--signature", &signature, &list]].concat(),
        )
    };
    assert_verdict(&verify(), true);
    files::replace(Path::new(&list), b"1111  file\n", 0o644);
    assert_verdict(&verify(), false);
}
