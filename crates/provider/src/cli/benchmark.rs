//! `benchmark`: how long encrypting and decrypting take from this node.

use clap::Args;
use kms_node::clock::{Clock as _, SystemClock};
use kms_operator::benchmark::{Load, through_openbao, through_socket};

use super::{Context, Exit, Failure, OutputFlag, openbao_flags::OpenBaoFlags, progress::tell};

/// Measure how long encrypting and decrypting 32 random bytes take
///
/// Logs in to OpenBao, reads the key's metadata and makes round trips with the newest version of
/// the key, each checked. Stores nothing. Exit code 4 when one fails.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Round trips in all
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    iterations: u32,
    /// Round trips at the same time. OpenBao gets at most 16 requests at once, the others wait and
    /// their wait counts; a provider refuses more than its server.maxConcurrent settings
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    concurrency: u32,
    /// Ask the running provider at server.socketPath, as kube-apiserver does, with the key that it
    /// encrypts with
    #[arg(long)]
    through_socket: bool,
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.openbao.apply(context);
        let config = context.load()?.config;
        let load = Load {
            iterations: self.iterations,
            concurrency: self.concurrency,
        };
        let progress = |done| tell(&format!("round trip {done} of {}", load.iterations));
        let result = if self.through_socket {
            through_socket(&config, load, progress)
        } else {
            config.auth.supported()?;
            through_openbao(&config, load, progress)
        };
        tell("");
        let mut outcome = result?.outcome(SystemClock.now());
        outcome.identify(&config.fingerprint());
        outcome.set_sources(&context.sources);
        self.output.show(&outcome, context)
    }
}
