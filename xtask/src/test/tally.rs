//! Counts test results in the output of cargo and of the test programs.

use std::fmt;

use crate::tools::OPENBAO_VERSION;

/// Results so far.
#[derive(Default)]
pub(super) struct Tally {
    all: Counts,
    openbao: Counts,
    kube_apiserver: Counts,
    /// Results of the long tests only.
    long: Option<Counts>,
    /// The server tested by the current program, if any.
    server: Option<Server>,
}

/// A real server tested by a whole test program.
#[derive(Clone, Copy)]
pub(super) enum Server {
    OpenBao,
    KubeApiserver,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Reads one line of output.
    pub(super) fn read(&mut self, line: &str) {
        let line = without_colour(line);
        let line = line.trim();
        if let Some(target) = line.strip_prefix("Running ") {
            self.enter(Server::of(target));
        } else if line.starts_with("Doc-tests ") {
            self.enter(None);
        } else if let Some(counts) = line.strip_prefix("test result: ").and_then(Counts::parse) {
            self.all.add(counts);
            if let Some(long) = &mut self.long {
                long.add(counts);
            }
            match self.server {
                Some(Server::OpenBao) => self.openbao.add(counts),
                Some(Server::KubeApiserver) => self.kube_apiserver.add(counts),
                None => {}
            }
        }
    }

    /// Sets the server of the following results.
    pub(super) fn enter(&mut self, server: Option<Server>) {
        self.server = server;
    }

    /// Counts all following results as long tests.
    pub(super) fn begin_long(&mut self) {
        self.long = Some(Counts::default());
    }

    pub(super) fn ran(&self) -> u64 {
        self.all.ran()
    }

    pub(super) fn long(&self) -> u64 {
        self.long.map_or(0, Counts::ran)
    }

    pub(super) fn against(&self, server: Server) -> u64 {
        match server {
            Server::OpenBao => self.openbao.ran(),
            Server::KubeApiserver => self.kube_apiserver.ran(),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            passed,
            failed,
            ignored,
        } = self.all;
        let not_run = ignored.saturating_sub(self.long());
        if not_run > 0 {
            writeln!(f, "{not_run} ignored")?;
        }
        writeln!(f, "{passed} passed, {failed} failed")?;
        write!(
            f,
            "{} of them with a real OpenBao {OPENBAO_VERSION}",
            self.openbao.ran()
        )?;
        match self.kube_apiserver.ran() {
            0 => {}
            ran => write!(f, "\n{ran} of them with a real kube-apiserver")?,
        }
        match self.long {
            None => Ok(()),
            Some(long) => write!(f, "\n{} of them long tests", long.ran()),
        }
    }
}

impl Counts {
    /// Parses `ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn parse(result: &str) -> Option<Self> {
        let (_, counts) = result.split_once(". ")?;
        let count = |unit: &str| {
            let mut parts = counts
                .split(';')
                .filter_map(|part| part.trim().split_once(' '));
            parts
                .find(|(_, found)| *found == unit)
                .and_then(|(number, _)| number.parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored")?,
        })
    }

    fn ran(self) -> u64 {
        self.passed + self.failed
    }

    fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.ignored += more.ignored;
    }
}

impl Server {
    /// The server tested by a program printed by cargo as `tests/openbao.rs (target/...)`.
    fn of(target: &str) -> Option<Self> {
        let source = target.split(' ').next().unwrap_or_default();
        let is = |name: &str| {
            let (_, path) = source.rsplit_once("tests/").unwrap_or_default();
            path.strip_prefix(name)
                .is_some_and(|rest| rest == ".rs" || rest == "/main.rs")
        };
        if is("openbao") {
            Some(Self::OpenBao)
        } else if is("kubernetes") {
            Some(Self::KubeApiserver)
        } else {
            None
        }
    }
}

/// Removes color escape sequences: ESC `[` ... letter.
fn without_colour(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part
            .find(|c: char| c.is_ascii_alphabetic())
            .map_or(part.len(), |at| at + 1);
        plain.push_str(part.get(end..).unwrap_or_default());
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn results_are_summed_over_programs_and_documentation() {
        let tally = tally(
            "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\
             test a ... ok\n\
             test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
             \u{1b}[1m\u{1b}[92m     Running\u{1b}[0m tests/openbao.rs (target/debug/deps/openbao-1)\n\
             test result: FAILED. 2 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
             \u{20}   Running tests/openbao/main.rs (target/debug/deps/openbao-2)\n\
             test result: \u{1b}[32mok\u{1b}[0m. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
             Running tests/kubernetes/main.rs (target/debug/deps/kubernetes-1)\n\
             test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
             \u{20}  Doc-tests a\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(
            tally.to_string(),
            format!(
                "3 ignored\n18 passed, 1 failed\n\
                 7 of them with a real OpenBao {OPENBAO_VERSION}\n\
                 6 of them with a real kube-apiserver"
            )
        );
    }

    #[test]
    fn long_tests_are_counted_after_the_suite() {
        let mut tally = tally(
            "Running tests/openbao/main.rs (target/debug/deps/openbao-1)\n\
             test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n",
        );
        tally.begin_long();
        tally.read("Running tests/openbao/main.rs (target/debug/deps/openbao-1)");
        tally.read("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out");
        assert_eq!((tally.ran(), tally.long()), (5, 1));
        assert!(
            tally.to_string().ends_with("\n1 of them long tests"),
            "{tally}"
        );
    }

    #[test]
    fn other_programs_do_not_count_as_openbao() {
        let tally = tally(
            "Running tests/state/main.rs (target/debug/deps/openbao-1)\n\
             test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
             Running unittests src/openbao.rs (target/debug/deps/openbao-2)\n\
             test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!((tally.ran(), tally.against(Server::OpenBao)), (10, 0));
    }
}
