//! A child process that cannot outlive this one.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

/// The shell holds the reading end of a pipe whose only writing end is ours. The kernel closes that
/// end however we die, and the shell then kills the program. A line in the pipe asks it to stop.
/// The loop uses builtins alone, so that no helper process stays behind.
const GUARD: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
{
    while read -r line; do kill -TERM "$program"; done
    kill -KILL "$program"
} <&3 2>/dev/null &
guard=$!
exec 3<&-
wait "$program"
status=$?
kill "$guard" 2>/dev/null
exit "$status"
"#;

/// A running program. Dropping it kills the program and waits for its end.
pub struct GuardedChild {
    shell: Child,
    /// `None` once the guard was told to kill.
    lifeline: Option<ChildStdin>,
}

impl GuardedChild {
    /// Runs the program with its output in `log`, an empty environment, and in a process group of
    /// its own, so that a Ctrl-C at the terminal reaches us alone.
    ///
    /// # Errors
    /// When the shell cannot be started; a program that cannot be is an exit status.
    pub fn spawn(program: &Path, arguments: &[&str], log: File) -> io::Result<Self> {
        Self::spawn_with(program, arguments, &[], log)
    }

    /// As [`Self::spawn`], with these variables for an environment.
    ///
    /// # Errors
    /// When the shell cannot be started.
    pub fn spawn_with(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
        log: File,
    ) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", GUARD, "guard"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let lifeline = shell.stdin.take();
        Ok(Self { shell, lifeline })
    }

    /// The program's exit status once it has ended; that of the shell's making for a signal.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.shell.try_wait()
    }

    /// Asks the program to stop; it may take its time.
    ///
    /// # Errors
    /// When the guard is gone.
    pub fn ask_to_stop(&mut self) -> io::Result<()> {
        match &mut self.lifeline {
            Some(lifeline) => lifeline.write_all(b"\n"),
            None => Ok(()),
        }
    }

    /// Kills the program and waits for its end.
    ///
    /// # Errors
    /// When the system cannot wait.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        drop(self.lifeline.take());
        self.shell.wait()
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        // Nobody is left to tell; the guard kills the program in any case.
        drop(self.kill());
    }
}
