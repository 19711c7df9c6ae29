//! Generates the Rust code of the gRPC services, and the descriptors of Kubernetes' stored types. Run
//! by `cargo xtask proto`.

mod descriptors;

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
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
        commit(&fs::read(generated)?, &committed, check)?;
    }

    let committed = workspace.join("crates/kms-extract/kubernetes.binpb.gz");
    match descriptors::generate(&workspace, &out)? {
        Some(generated) => commit(&generated, &committed, check)?,
        None if check => writeln!(
            io::stderr(),
            "NOT RUN, Go is missing: the descriptors of Kubernetes"
        )?,
        None => return Err("the descriptors of Kubernetes need `go` in PATH".into()),
    }
    Ok(())
}

/// Writes a committed file, or compares it.
#[expect(
    clippy::disallowed_methods,
    reason = "a file lost in a power failure is generated again"
)]
fn commit(generated: &[u8], committed: &Path, check: bool) -> Result<(), Box<dyn Error>> {
    if !check {
        fs::write(committed, generated)?;
    } else if generated != fs::read(committed)? {
        return Err(format!(
            "{} differs from what its .proto files give; run `cargo xtask proto` and commit the \
             result",
            committed.display()
        )
        .into());
    }
    Ok(())
}
