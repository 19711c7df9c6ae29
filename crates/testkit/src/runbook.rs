//! Runs the pages of the operator's documentation: each command of a page, in order, must print the
//! output on the page and exit with its code.
//!
//! Commands are in `console` blocks. A line that begins with `$ ` is a command, and `cp-2$ ` is a
//! command on the machine `cp-2`. The lines below are its output. A command must succeed unless it
//! ends with `# exits with 4`. In the output, a line of `...` matches any lines and `[..]` matches
//! any text within a line. `<plan-hash>` matches one word: every later use in an output must match
//! the same word, and a command is run with that word in its place.
//!
//! The prompt `each$ ` is a command on every control-plane node, one after another.
//!
//! A `yaml` block replaces the sections of the provider's configuration that it names.
//!
//! A block after `<!-- one member -->` or `<!-- several members -->` is for clusters with so many
//! servers of OpenBao, members of etcd and control-plane nodes. `<!-- one member from here on -->`
//! ends the page for the others.
//!
//! A fault is a comment of the form `<!-- incident: the fault -->` between two blocks. The test
//! causes the fault there.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed page fails the test, with its commands and output"
)]

use std::{thread, time::Duration};

use output::Words;
use page::{Item, Members, Page, Step};
use tokio::time::timeout;

pub use shell::{Done, Shell};

mod output;
pub mod page;
mod shell;
pub mod terminal;

/// The prompt of a command on every control-plane node.
pub const EACH: &str = "each";

/// Limit for one step of a page.
const STEP_WITHIN: Duration = Duration::from_secs(120);

/// Machines for the commands of a page.
pub trait Site {
    /// The shell of a machine; an empty name is the machine without a name on the page.
    fn shell(&self, machine: &str) -> &Shell;

    /// Names of all control-plane nodes, for [`EACH`].
    fn nodes(&self) -> Vec<String> {
        vec![String::new()]
    }

    /// Replaces a command of the service manager, or of another part missing in tests. Returns
    /// `None` for a command to run in the shell.
    fn instead(&mut self, machine: &str, words: &[String]) -> impl Future<Output = Option<Done>>;

    /// Replaces sections of the provider's configuration on the machine without a name.
    fn configure(&mut self, sections: &str);

    /// Input at the terminal for a command with a prompt.
    fn typed(&mut self, command: &str) -> Option<String>;

    /// Performs the effects of a command on other parts, such as a kubelet, and waits for them.
    fn settle(&mut self, machine: &str, command: &str) -> impl Future<Output = ()>;
}

/// Lines to type for commands that ask, each used once.
#[derive(Debug, Default)]
pub struct Answers(Vec<(&'static str, String)>);

impl Answers {
    /// Adds a line for the next command that begins like this.
    pub fn add(&mut self, begins: &'static str, line: impl Into<String>) {
        self.0.push((begins, line.into()));
    }

    /// The line for a command, if it asks.
    pub fn take(&mut self, command: &str) -> Option<String> {
        let mut lines = self.0.iter();
        let at = lines.position(|(begins, _)| command.starts_with(begins))?;
        Some(self.0.remove(at).1)
    }
}

/// Progress through a page. Drop asserts that every step was run.
pub struct Walk {
    page: String,
    items: Vec<Item>,
    next: usize,
    words: Words,
}

impl Walk {
    /// Starts at the beginning of `docs/<name>.md`, with one member of each kind.
    ///
    /// # Panics
    /// When the page is missing or malformed.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::with(name, Members::One)
    }

    /// As [`Self::of`], with several members of each kind.
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn on_cluster(name: &str) -> Self {
        Self::with(name, Members::Several)
    }

    fn with(name: &str, members: Members) -> Self {
        let page = Page::read(name);
        Self {
            page: page.name().to_owned(),
            items: page.items(members),
            next: 0,
            words: Words::new(),
        }
    }

    /// Runs the page up to the next incident, which must be `incident`.
    ///
    /// # Panics
    /// When an exit code or output differs from the page.
    pub async fn to_incident(&mut self, site: &mut impl Site, incident: &str) {
        let met = self.until_next_incident(site).await;
        assert_eq!(met.as_deref(), Some(incident), "on {}", self.page);
    }

    /// Runs the rest of the page.
    ///
    /// # Panics
    /// As [`Self::to_incident`], and when the rest contains an incident.
    pub async fn to_end(&mut self, site: &mut impl Site) {
        let met = self.until_next_incident(site).await;
        assert_eq!(met, None, "on {}", self.page);
    }

    /// The word bound to a name such as `plan-hash`.
    ///
    /// # Panics
    /// When the name is unbound.
    #[must_use]
    pub fn word(&self, name: &str) -> String {
        let word = self.words.get(name);
        word.unwrap_or_else(|| panic!("{}: <{name}> is unbound", self.page))
            .to_owned()
    }

    /// Binds a name to a word.
    pub fn set_word(&mut self, name: &str, word: &str) {
        self.words.insert(name.to_owned(), word.to_owned());
    }

    async fn until_next_incident(&mut self, site: &mut impl Site) -> Option<String> {
        while let Some(item) = self.items.get(self.next).cloned() {
            self.next += 1;
            match item {
                Item::Incident(incident) => return Some(incident),
                Item::Step(step) if step.machine == EACH => {
                    for machine in site.nodes() {
                        self.carry_out(site, &machine, &step).await;
                    }
                }
                Item::Step(step) => self.carry_out(site, &step.machine, &step).await,
                Item::Settings(sections) => {
                    let sections = output::filled(&sections, &self.words)
                        .unwrap_or_else(|name| panic!("{}: <{name}> is unbound", self.page));
                    site.configure(&sections);
                }
            }
        }
        None
    }

    async fn carry_out(&mut self, site: &mut impl Site, machine: &str, step: &Step) {
        let place = format!("{}:{}", self.page, step.line);

        // Checked on the text of the page: a ciphertext that replaces a name may look like a path.
        let foreign = site.shell(machine).foreign_path(&step.command);
        assert_eq!(foreign, None, "{place}: a path outside the test");
        let command = output::filled(&step.command, &self.words)
            .unwrap_or_else(|name| panic!("{place}: <{name}> is unbound"));

        let typed = site.typed(&command);
        let run = async {
            if let Some(done) = site.instead(machine, &words(&command)).await {
                return done;
            }
            let shell = site.shell(machine);
            shell.run(&command, typed.as_deref()).await
        };
        let Ok(done) = timeout(STEP_WITHIN, run).await else {
            panic!("{place}: `{command}` took longer than {STEP_WITHIN:?}");
        };

        let shown = site.shell(machine).as_on_the_page(&done.output);
        println!("{place}: {machine}$ {command}\n{shown}");
        match output::compare(&step.expected, &shown, &self.words) {
            Some(words) if done.code == Some(step.code) => self.words = words,
            _ => panic!(
                "{place}: `{command}` must exit with {} and print\n{}\n--- but exits with {:?} and prints\n{shown}",
                step.code,
                step.expected.join("\n"),
                done.code,
            ),
        }
        site.settle(machine, &command).await;
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        let left = self.items.len() - self.next;
        assert!(
            left == 0 || thread::panicking(),
            "{}: {left} items were skipped",
            self.page
        );
    }
}

/// Words of a simple command. Quotes group characters and are removed.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut quoted = false;
    let mut word = String::new();
    for c in command.replace("\\\n", " ").chars() {
        match c {
            '\'' | '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        assert_eq!(words("a  'b c' \\\n  --d=\"e f\""), ["a", "b c", "--d=e f"]);
    }
}
