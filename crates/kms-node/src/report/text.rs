//! The text of a result: verdict and headline, effect on the data, steps and warnings first, for a
//! tired reader; tables, checks and limitations below.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::{
    CheckResult, Status,
    outcome::{Outcome, PASSED},
    printable,
};
use crate::exit::Exit;

/// Form of the text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    pub color: bool,
    /// Every passed check on a line of its own, with its title.
    pub verbose: bool,
}

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const ODD: Style = AnsiColor::Yellow.on_default().bold();

impl Look {
    fn paint(self, style: Style, text: &str) -> String {
        match self.color {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }
}

impl<R> Outcome<R> {
    pub fn text(&self, look: Look, out: &mut dyn Write) -> io::Result<()> {
        let style = match self.exit() {
            Exit::Success => GOOD,
            Exit::Runtime | Exit::Unclassified => ODD,
            _ => BAD,
        };
        // Without checks, the headline is the answer itself.
        if self.verdict == PASSED && self.checks.is_empty() {
            writeln!(out, "{}: {}", self.command, printable(&self.headline))?;
        } else {
            let verdict = look.paint(style, self.verdict);
            writeln!(out, "{}: {verdict}", self.command)?;
            writeln!(out, "{}", printable(&self.headline))?;
        }
        if let Some(found) = &self.found {
            writeln!(out, "found: {}", printable(found))?;
        }
        if let Some(data) = &self.data {
            writeln!(
                out,
                "data: {} - {}",
                data.impact.as_str(),
                printable(data.sentence())
            )?;
        }
        for step in &self.next_steps {
            writeln!(out, "next: {}", printable(&step.text))?;
            if let Some(command) = &step.command {
                writeln!(out, "      {}", printable(command))?;
            }
        }
        for warning in &self.warnings {
            writeln!(out, "{}", look.paint(ODD, &printable(warning)))?;
        }
        for table in &self.tables {
            writeln!(out)?;
            table.write(out)?;
        }
        if !self.checks.is_empty() {
            writeln!(out)?;
            checks(&self.checks, look, out)?;
        }
        for limitation in &self.limitations {
            writeln!(out, "limitation: {}", printable(limitation))?;
        }
        Ok(())
    }
}

/// Passed checks share a line, and so do those that were skipped for one reason.
fn checks(all: &[CheckResult], look: Look, out: &mut dyn Write) -> io::Result<()> {
    let alike = |one: &CheckResult, other: &CheckResult| match (one.status, other.status) {
        _ if look.verbose => false,
        (Status::Pass, Status::Pass) => true,
        (Status::Skip, Status::Skip) => one.message == other.message,
        _ => false,
    };
    for group in all.chunk_by(alike) {
        let ids: Vec<_> = group.iter().map(CheckResult::id).collect();
        let ids = ids.join(", ");
        match group {
            [passed, ..] if passed.status == Status::Pass && !look.verbose => {
                writeln!(out, "{} {ids}", mark(Status::Pass, look))?;
            }
            [one] => check(one, look, out)?,
            [first, ..] => writeln!(
                out,
                "{} {ids} - {}",
                mark(first.status, look),
                printable(first.found())
            )?,
            [] => {}
        }
    }
    Ok(())
}

fn check(check: &CheckResult, look: Look, out: &mut dyn Write) -> io::Result<()> {
    let mark = mark(check.status, look);
    write!(out, "{mark} {}: {}", check.id, check.title)?;
    if let Some(message) = &check.message {
        write!(out, " - {}", printable(message))?;
    }
    writeln!(out)?;
    if check.status == Status::Pass {
        return Ok(());
    }
    if let Some(impact) = &check.impact {
        writeln!(out, "    impact: {}", printable(impact))?;
    }
    for step in check.steps() {
        writeln!(out, "    next: {}", printable(step.text))?;
        if let Some(command) = step.command {
            writeln!(out, "          {}", printable(command))?;
        }
    }
    Ok(())
}

fn mark(status: Status, look: Look) -> String {
    let style = match status {
        Status::Pass => GOOD,
        Status::Warn => ODD,
        Status::Fail => BAD,
        Status::Skip => Style::new(),
    };
    format!("[{}]", look.paint(style, status.as_str()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::{
        advice::{DataImpact, NextStep},
        report::outcome::Nothing,
        report::table::Table,
    };

    fn text(outcome: &Outcome, look: Look) -> String {
        let mut out = Vec::new();
        outcome.text(look, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// A name in a backup directory or in etcd must not change the terminal of a reader.
    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        let evil = "\u{1b}[2J\u{202e}x\u{7}\r\u{9b}";
        let mut outcome = Outcome::new("triage", UNIX_EPOCH, Nothing {});
        let mut first = CheckResult::fail("a", "A", evil);
        first = first.impact(evil);
        outcome.add_checks([first, CheckResult::skip("b", "B", evil)]);
        outcome.add_checks([CheckResult::skip("c", "C", evil)]);
        outcome.conclude("failed", Exit::CheckFailed, evil);
        outcome.set_found(evil);
        outcome.set_data(DataImpact::NoneLost, evil);
        outcome.add_step(NextStep::run(evil, evil));
        outcome.add_warnings([evil]);
        outcome.add_limitations([evil]);
        let mut table = Table::new(evil, ["name"]);
        table.row([evil]);
        table.left_out(evil);
        outcome.add_table(table);
        let plain = text(&outcome, Look::default());
        assert_eq!(
            plain
                .matches("\\u{1b}[2J\\u{202e}x\\u{7}\\u{d}\\u{9b}")
                .count(),
            13
        );
        assert!(!plain.contains(super::super::is_obeyed), "{plain:?}");
    }

    #[test]
    fn a_verdict_comes_first_and_the_checks_below() {
        let mut outcome = Outcome::new("triage", UNIX_EPOCH, Nothing {});
        outcome.add_checks([
            CheckResult::pass("a.first", "First"),
            CheckResult::pass("b.second", "Second"),
            CheckResult::fail("c.third", "Third", "broken"),
            CheckResult::skip("d.fourth", "Fourth", "not reached"),
            CheckResult::skip("e.fifth", "Fifth", "not reached"),
        ]);
        outcome.conclude("openbao_sealed", Exit::CheckFailed, "OpenBao is sealed");
        outcome.set_found("https://b:8200 is sealed");
        outcome.set_data(DataImpact::NoneLost, "no data is lost");
        outcome.add_step(NextStep::run("unseal it", "bao operator unseal"));
        outcome.add_warnings(["do not restart it"]);
        outcome.add_limitations(["Only this node was checked."]);
        let mut table = Table::new("servers", ["address", "sealed"]);
        table.row(["b:8200", "yes"]);
        outcome.add_table(table);
        assert_eq!(
            text(&outcome, Look::default()),
            "triage: openbao_sealed\n\
             OpenBao is sealed\n\
             found: https://b:8200 is sealed\n\
             data: none_lost - no data is lost\n\
             next: unseal it\n      bao operator unseal\n\
             do not restart it\n\n\
             servers\n  ADDRESS  SEALED\n  b:8200   yes\n\n\
             [pass] a.first, b.second\n\
             [fail] c.third: Third - broken\n\
             [skip] d.fourth, e.fifth - not reached\n\
             limitation: Only this node was checked.\n"
        );
        let verbose = Look {
            verbose: true,
            color: true,
        };
        let verbose = text(&outcome, verbose);
        assert!(
            verbose.contains("pass\u{1b}[0m] b.second: Second\n"),
            "{verbose}"
        );
    }
}
