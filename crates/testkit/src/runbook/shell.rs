//! The shell of one machine of a test.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use super::terminal;

/// Runs the commands of a page with paths and addresses of the test in place of those on the page.
#[derive(Debug, Clone, Default)]
pub struct Shell {
    /// Pairs of a name on the page and its value in the test.
    names: Vec<(String, String)>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    /// Command line that runs the rest of its words on another root; empty for this machine.
    entrance: Vec<String>,
}

/// Result of a command.
#[derive(Debug, Clone)]
pub struct Done {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output and standard error, interleaved.
    pub output: String,
}

impl Done {
    /// Success with empty output.
    #[must_use]
    pub fn silently() -> Self {
        Self {
            code: Some(0),
            output: String::new(),
        }
    }
}

impl Shell {
    /// A shell with this working directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            directory: Some(directory.to_owned()),
            ..Self::default()
        }
    }

    /// A shell on a root of its own, where all paths are the test's.
    #[must_use]
    pub fn on_another_root(entrance: Vec<String>, directory: &Path) -> Self {
        Self {
            entrance,
            ..Self::in_directory(directory)
        }
    }

    /// Maps the name `page` to the value `here`.
    pub fn name(&mut self, page: &str, here: impl ToString) {
        self.names.retain(|(name, _)| name != page);
        self.names.push((page.to_owned(), here.to_string()));
        self.names
            .sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    /// Sets an environment variable. Commands inherit no variables from the test process.
    pub fn set(&mut self, variable: &str, value: impl Into<OsString>) {
        self.environment.push((variable.into(), value.into()));
    }

    /// The first absolute path in a command without a mapping: the command would touch the machine
    /// that runs the test.
    pub(super) fn foreign_path<'a>(&self, command: &'a str) -> Option<&'a str> {
        if !self.entrance.is_empty() {
            return None;
        }
        let mut before = ' ';
        for (at, c) in command.char_indices() {
            let path = &command[at..];
            let begins = before.is_whitespace() || "='\"@:>,".contains(before);
            if c == '/'
                && begins
                && !path.starts_with("//")
                && !path.starts_with("/dev/null")
                && !self.names.iter().any(|(name, _)| is_at(path, name))
            {
                return path.split_whitespace().next();
            }
            before = c;
        }
        None
    }

    /// Replaces the names on the page with their values in the test.
    #[must_use]
    pub fn as_here(&self, text: &str) -> String {
        replace(
            text,
            self.names.iter().map(|(page, here)| (&**page, &**here)),
        )
    }

    /// Replaces values in the test with their names on the page.
    #[must_use]
    pub fn as_on_the_page(&self, text: &str) -> String {
        let mut names: Vec<_> = self
            .names
            .iter()
            .map(|(page, here)| (&**here, &**page))
            .collect();
        names.sort_by_key(|(here, _)| std::cmp::Reverse(here.len()));
        replace(text, names.into_iter())
    }

    /// Runs a command. With `typed`, standard input is a terminal at which this line was typed.
    ///
    /// # Panics
    /// When `/bin/sh` fails to start.
    pub async fn run(&self, command: &str, typed: Option<&str>) -> Done {
        let terminal = typed.map(terminal::Terminal::with);
        let mut script = format!("exec 2>&1\n{}", self.as_here(command));
        let mut words = self.entrance.iter().map(String::as_str).chain(["/bin/sh"]);
        let mut shell = Command::new(words.next().unwrap_or_default());
        match &self.directory {
            Some(directory) if self.entrance.is_empty() => drop(shell.current_dir(directory)),
            // The entrance leads to the root directory.
            Some(directory) => {
                script.insert_str(0, &format!("cd {} || exit\n", directory.display()))
            }
            None => {}
        }
        shell
            .args(words)
            .arg("-c")
            .arg(script)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .stdin(match &terminal {
                Some(terminal) => terminal.stdin(),
                None => Stdio::null(),
            });

        let output = shell.output().await.unwrap();
        Done {
            code: output.status.code(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        }
    }
}

/// Replaces the first match at each position; `names` are in order of length, longest first.
/// Replaced text is copied without another replacement.
fn replace<'a>(text: &str, names: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match names.clone().find(|(from, _)| is_at(rest, from)) {
            Some((from, to)) => {
                replaced.push_str(to);
                rest = &rest[from.len()..];
            }
            None => {
                replaced.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    replaced
}

/// Whether the text begins with `name` as a whole: the next character must end the name.
fn is_at(text: &str, name: &str) -> bool {
    text.strip_prefix(name)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_of_the_page_are_the_tests_and_back() {
        let mut shell = Shell::default();
        shell.name("/etc/a", "/tmp/etc/a");
        shell.name("/etc", "/elsewhere");
        shell.set("PATH", "/usr/bin:/bin");
        shell.name("/etcd", "/etcd");
        let done = shell.run("echo /etc/a/b /etc /etcd; echo bad >&2; exit 3", None);
        let done = done.await;
        assert_eq!(done.code, Some(3));
        assert_eq!(done.output, "/tmp/etc/a/b /elsewhere /etcd\nbad\n");
        assert_eq!(
            shell.as_on_the_page(&done.output),
            "/etc/a/b /etc /etcd\nbad\n"
        );
    }

    #[test]
    fn a_path_of_the_machine_that_runs_the_test_is_found() {
        let mut shell = Shell::default();
        shell.name("/etc/a", "/tmp/etc/a");
        for own in [
            "cp /etc/a/b x 2> /dev/null",
            "get https://h/x x=@/etc/a",
            "sed 's|/etc/a|c|'",
        ] {
            assert_eq!(shell.foreign_path(own), None);
        }
        for foreign in ["cp /etc/a /etc", "write x=@/root/y", "echo > '/root'"] {
            assert!(shell.foreign_path(foreign).is_some(), "{foreign}");
        }
    }

    #[tokio::test]
    async fn a_command_that_asks_at_a_terminal_is_answered() {
        let mut shell = Shell::default();
        shell.set("PATH", "/usr/bin:/bin");
        let done = shell.run(
            "test -t 0 && read -r answer && echo \"$answer\"",
            Some("yes"),
        );
        assert_eq!(done.await.output, "yes\n");
    }
}
