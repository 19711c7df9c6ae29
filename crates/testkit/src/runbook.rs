//! Pages of the operator's documentation, carried out: every command that a page shows is run, in
//! the order of the page, and must print what the page says.
//!
//! A page has blocks of `console`. A line that begins with `$ ` is a command, one that begins with
//! `cp-2$ ` is a command on another machine of that name, and what follows is its output. A command
//! ends with `# exits with 4` unless it succeeds. In an output, a line of `...` stands for any
//! lines, `[..]` for anything within a line, and `<plan-hash>` for one word, which is the same
//! wherever that name stands and can be used in later commands.
//!
//! What goes wrong is no command of the page: the test does it, where a comment of the form
//! `<!-- incident: what happens -->` stands between two blocks.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a page that cannot be carried out is a failed test, which shows what it did"
)]

use std::{thread, time::Duration};

use output::Words;
use page::{Item, Page, Step};
use tokio::time::timeout;

pub use shell::{Done, Shell};

mod output;
pub mod page;
mod shell;
pub mod terminal;

/// No step of a page may take longer.
const STEP_WITHIN: Duration = Duration::from_secs(120);

/// The machines that a page is carried out on.
pub trait Site {
    /// The shell of a machine; the name is empty for the one that a page does not name.
    fn shell(&self, machine: &str) -> &Shell;

    /// Does what a machine does by its service manager and other parts that tests do not have;
    /// `None` for what its shell can run.
    fn instead(&mut self, machine: &str, words: &[String]) -> impl Future<Output = Option<Done>>;

    /// What somebody types when this command asks for it.
    fn typed(&mut self, command: &str) -> Option<String>;

    /// Whatever happens by itself after a command, and what a person waits for.
    fn settle(&mut self, command: &str) -> impl Future<Output = ()>;
}

/// A page on its way. Dropped, it asserts that the whole page was carried out.
pub struct Walk {
    page: Page,
    next: usize,
    words: Words,
}

impl Walk {
    /// At the beginning of `docs/operate/disaster-recovery/<name>.md`.
    ///
    /// # Panics
    /// When there is no such page or it is not well-formed.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            page: Page::read(name),
            next: 0,
            words: Words::new(),
        }
    }

    /// Carries out the page up to the next incident, which must be this one.
    ///
    /// # Panics
    /// When a command ends or prints otherwise than the page says.
    pub async fn to_incident(&mut self, site: &mut impl Site, incident: &str) {
        let met = self.until_next_incident(site).await;
        assert_eq!(met.as_deref(), Some(incident), "on {}", self.page.name());
    }

    /// Carries out the rest of the page.
    ///
    /// # Panics
    /// As [`Self::to_incident`], and when there is an incident in the rest.
    pub async fn to_end(&mut self, site: &mut impl Site) {
        let met = self.until_next_incident(site).await;
        assert_eq!(met, None, "on {}", self.page.name());
    }

    /// The word that the page has met under a name such as `plan-hash`.
    ///
    /// # Panics
    /// When it has met none.
    #[must_use]
    pub fn word(&self, name: &str) -> String {
        let word = self.words.get(name);
        word.unwrap_or_else(|| panic!("{} has met no <{name}>", self.page.name()))
            .to_owned()
    }

    /// Lets a name stand for a word from now on.
    pub fn set_word(&mut self, name: &str, word: &str) {
        self.words.insert(name.to_owned(), word.to_owned());
    }

    async fn until_next_incident(&mut self, site: &mut impl Site) -> Option<String> {
        while let Some(item) = self.page.items().get(self.next).cloned() {
            self.next += 1;
            match item {
                Item::Incident(incident) => return Some(incident),
                Item::Step(step) => self.carry_out(site, &step).await,
            }
        }
        None
    }

    async fn carry_out(&mut self, site: &mut impl Site, step: &Step) {
        let place = format!("{}:{}", self.page.name(), step.line);
        // Of what the page itself says: a ciphertext that is put in may look like a path.
        let foreign = site.shell(&step.machine).foreign_path(&step.command);
        assert_eq!(foreign, None, "{place}: this is not the test's own");
        let command = output::filled(&step.command, &self.words)
            .unwrap_or_else(|name| panic!("{place}: nothing has shown <{name}> yet"));
        let typed = site.typed(&command);
        let run = async {
            if let Some(done) = site.instead(&step.machine, &words(&command)).await {
                return done;
            }
            let shell = site.shell(&step.machine);
            shell.run(&command, typed.as_deref()).await
        };
        let Ok(done) = timeout(STEP_WITHIN, run).await else {
            panic!("{place}: `{command}` took longer than {STEP_WITHIN:?}");
        };
        let shown = site.shell(&step.machine).as_on_the_page(&done.output);
        println!("{place}: {}$ {command}\n{shown}", step.machine);
        match output::compare(&step.expected, &shown, &self.words) {
            Some(words) if done.code == Some(step.code) => self.words = words,
            _ => panic!(
                "{place}: `{command}` should exit with {} and print\n{}\n--- but exits with {:?} and prints\n{shown}",
                step.code,
                step.expected.join("\n"),
                done.code,
            ),
        }
        site.settle(&command).await;
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        let left = self.page.items().len() - self.next;
        assert!(
            left == 0 || thread::panicking(),
            "{}: {left} steps were not carried out",
            self.page.name()
        );
    }
}

/// The words of a simple command; quotes group and vanish.
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
