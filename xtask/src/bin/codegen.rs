//! Generates the Rust code of the KMS v2 service; `cargo xtask proto` runs it.

use std::error::Error;
use std::fs;
use std::path::Path;

/// Without arguments writes the committed file, with `--check` compares it.
fn main() -> Result<(), Box<dyn Error>> {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    let provider = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/provider");
    let committed = provider.join("src/kms/generated.rs");

    let out = provider.join("../../target/codegen");
    fs::create_dir_all(&out)?;
    let service = protox::compile(["kms/v2/api.proto"], [provider.join("proto")])?;
    tonic_prost_build::configure()
        // Plaintext arrives in the buffer that was read from the socket, not in a copy of it.
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
            "crates/provider/src/kms/generated.rs is not what its .proto file gives; \
                    run `cargo xtask proto` and commit the result"
                .into(),
        );
    }
    Ok(())
}
