//! A child process that cannot outlive this one.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

/// The shell reads from a pipe, and this process holds the only writing end. The kernel closes that
/// end however this process dies, and the shell then kills the program. A line in the pipe makes
/// the shell send SIGTERM. The loop uses only builtins, so that it leaves no helper process behind.
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

/// A running program. Drop kills it and waits for its end.
pub struct GuardedChild {
    shell: Child,
    /// Writing end of the guard's pipe; `None` after a kill.
    lifeline: Option<ChildStdin>,
}

impl GuardedChild {
    /// Runs the program with its output in `log`, an empty environment and its own process group: a
    /// Ctrl-C at the terminal reaches only this process.
    ///
    /// # Errors
    /// When the shell cannot be started. A program that cannot be started is an exit status.
    pub fn spawn(program: &Path, arguments: &[&str], log: File) -> io::Result<Self> {
        Self::spawn_with(program, arguments, &[], log)
    }

    /// As [`Self::spawn`], with these environment variables.
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

    /// Exit status of the program after its end. After a signal it is the shell's encoding of the
    /// signal.
    ///
    /// # Errors
    /// When the system cannot check the process.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.shell.try_wait()
    }

    /// Sends SIGTERM to the program and returns at once.
    ///
    /// # Errors
    /// When the guarding shell has ended.
    pub fn ask_to_stop(&mut self) -> io::Result<()> {
        match &mut self.lifeline {
            Some(lifeline) => lifeline.write_all(b"\n"),
            None => Ok(()),
        }
    }

    /// Kills the program and waits for its end.
    ///
    /// # Errors
    /// When the system cannot wait for the process.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        drop(self.lifeline.take());
        self.shell.wait()
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        // Drop cannot report an error; the guarding shell kills the program in any case.
        drop(self.kill());
    }
}
