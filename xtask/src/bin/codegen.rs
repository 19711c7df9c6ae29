//! Generates the Rust code of the KMS v2 service. Run by `cargo xtask proto`.

use std::error::Error;
use std::fs;
use std::path::Path;

/// Writes the committed file; with `--check` compares it.
fn main() -> Result<(), Box<dyn Error>> {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    let node = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/kms-node");
    let committed = node.join("src/kms_api/generated.rs");

    let out = node.join("../../target/codegen");
    fs::create_dir_all(&out)?;
    let service = protox::compile(["kms/v2/api.proto"], [node.join("proto")])?;
    tonic_prost_build::configure()
        // Plaintext stays in the buffer read from the socket, without a copy.
        .bytes(".")
        // Debug output of a request would show its plaintext.
        .skip_debug(["."])
        .out_dir(&out)
        .compile_fds(service)?;

    let generated = out.join("v2.rs");
    if !check {
        fs::copy(&generated, &committed)?;
    } else if fs::read(&generated)? != fs::read(&committed)? {
        return Err(
            "crates/kms-node/src/kms_api/generated.rs differs from the code generated from its .proto file; \
                    run `cargo xtask proto` and commit the result"
                .into(),
        );
    }
    Ok(())
}
