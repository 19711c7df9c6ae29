//! Generates the Rust code of the gRPC services. Run by `cargo xtask proto`.

use std::error::Error;
use std::fs;
use std::path::Path;

/// A service: its crate, its `.proto` file below `proto`, the name of the generated file, and the
/// committed copy.
const SERVICES: [[&str; 4]; 2] = [
    [
        "kms-node",
        "kms/v2/api.proto",
        "v2.rs",
        "src/kms_api/generated.rs",
    ],
    [
        "openbao-client",
        "workload.proto",
        "_.rs",
        "src/login/spiffe/generated.rs",
    ],
];

/// Writes the committed files; with `--check` compares them.
fn main() -> Result<(), Box<dyn Error>> {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = workspace.join("target/codegen");
    fs::create_dir_all(&out)?;

    for [package, proto, generated, committed] in SERVICES {
        let package = workspace.join("crates").join(package);
        let committed = package.join(committed);
        let service = protox::compile([proto], [package.join("proto")])?;
        tonic_prost_build::configure()
            // Plaintext stays in the buffer read from the socket, without a copy.
            .bytes(".")
            // Debug output of a message would show its plaintext or its token.
            .skip_debug(["."])
            .out_dir(&out)
            .compile_fds(service)?;

        let generated = out.join(generated);
        if !check {
            fs::copy(&generated, &committed)?;
        } else if fs::read(&generated)? != fs::read(&committed)? {
            return Err(format!(
                "{} differs from the code generated from its .proto file; run `cargo xtask proto` \
                 and commit the result",
                committed.display()
            )
            .into());
        }
    }
    Ok(())
}
