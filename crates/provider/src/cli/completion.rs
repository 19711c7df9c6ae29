//! `completion`: a script that completes this command line in a shell.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell as Generator;

use super::{Cli, Context, Exit, Failure};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Options {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Powershell,
    Zsh,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let generator = match self.shell {
            Shell::Bash => Generator::Bash,
            Shell::Fish => Generator::Fish,
            Shell::Powershell => Generator::PowerShell,
            Shell::Zsh => Generator::Zsh,
        };
        // The generator panics when it cannot write, so it writes to memory.
        let mut script = Vec::new();
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(generator, &mut command, name, &mut script);
        let script = String::from_utf8_lossy(&script);
        // The generator gives the program two names in the script for bash, because of its hyphens.
        let script = script.replace("bao__subcmd__kms__subcmd__provider", "bao__kms__provider");
        context.out.write_all(script.as_bytes())?;
        Ok(Exit::Success)
    }
}
