//! The page of a result: one self-contained HTML file without scripts, for a browser or a printer.
//!
//! Names in etcd are hostile input. Markup consists of constants, all other text goes through
//! `Page::text`, and every attribute is constant. The Content-Security-Policy permits the one style
//! sheet by its hash, and no request.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::{
    CheckResult, Status, StepText, is_obeyed,
    outcome::Outcome,
    picture::{Cell, Column, Grid, Picture, Rating},
    table::Table,
    utc,
};
use crate::exit::Exit;

/// Most rows of a grid, and most events.
const ROWS: usize = 100;
/// Most columns of a grid.
const COLUMNS: usize = 30;
/// Most grids.
const GRIDS: usize = 10;

const STYLE: &str = include_str!("html.css");

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-b/NjbWd0kDIM2Tqassx2ChaQJM/f6L9WPRdZfCj36Tk='; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>"#;

/// Appends markup and text; markup has no other source than constants of this file.
#[derive(Default)]
struct Page(String);

impl<R> Outcome<R> {
    /// The result as an HTML page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut page = Page::default();
        page.element(
            HEAD,
            &format!("{}: {}", self.command, self.verdict),
            "</title>\n<style>",
        );
        page.markup(STYLE);
        page.markup("</style>\n</head>\n<body>\n<main>\n");
        self.verdict_of(&mut page);
        self.actions(&mut page);
        page.picture(&self.picture, &self.time);
        page.checks(&self.checks);
        if !self.tables.is_empty() {
            page.markup("<section>\n<h2>Details</h2>\n");
            self.tables.iter().for_each(|table| page.table(table));
            page.markup("</section>\n");
        }
        page.list("Limitations", self.limitations.iter());
        page.markup("</main>\n</body>\n</html>\n");
        page.0
    }

    fn verdict_of(&self, page: &mut Page) {
        page.markup(match self.exit() {
            Exit::Success => "<header class=\"good\">\n",
            Exit::Runtime | Exit::Unclassified => "<header class=\"odd\">\n",
            _ => "<header class=\"bad\">\n",
        });
        page.element(
            "<h1>",
            &format!("{}: {}", self.command, self.verdict),
            "</h1>\n",
        );
        page.element("<p>", &self.headline, "</p>\n<dl>\n");
        let data = self.data.as_ref();
        let data = data.map(|data| format!("{} - {}", data.impact.as_str(), data.sentence()));
        let facts = [
            ("Data", data),
            ("Found", self.found.clone()),
            ("Cause", self.cause.map(str::to_owned)),
            ("Exit code", Some(self.exit_code.to_string())),
            ("Identity", self.identity_fingerprint.clone()),
            ("Time", Some(self.time.clone())),
            ("Program", Some(self.version.to_owned())),
        ];
        for (name, fact) in facts {
            if let Some(fact) = fact {
                page.element("<dt>", name, "</dt>");
                page.element("<dd>", &fact, "</dd>\n");
            }
        }
        page.markup("</dl>\n</header>\n");
    }

    fn actions(&self, page: &mut Page) {
        let steps = self.next_steps.iter().map(|step| StepText {
            text: &step.text,
            command: step.command.as_deref(),
        });
        if !self.next_steps.is_empty() {
            page.markup("<section>\n<h2>Next steps</h2>\n");
            page.steps(steps);
            page.markup("</section>\n");
        }
        page.list("Warnings", self.warnings.iter());
    }
}

impl Page {
    fn markup(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Appends the text of a node. Control characters, and those that reorder text, become escapes.
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c if is_obeyed(c) => self.0.extend(c.escape_unicode()),
                c => self.0.push(c),
            }
        }
    }

    fn element(&mut self, open: &'static str, text: &str, close: &'static str) {
        self.markup(open);
        self.text(text);
        self.markup(close);
    }

    fn list<'t>(&mut self, title: &'static str, items: impl ExactSizeIterator<Item = &'t String>) {
        if items.len() == 0 {
            return;
        }
        self.element("<section>\n<h2>", title, "</h2>\n<ul>\n");
        items.for_each(|item| self.element("<li>", item, "</li>\n"));
        self.markup("</ul>\n</section>\n");
    }

    /// A click selects a whole command.
    fn steps<'s>(&mut self, steps: impl Iterator<Item = StepText<'s>>) {
        self.markup("<ol>\n");
        for step in steps {
            self.element("<li>", step.text, "");
            if let Some(command) = step.command {
                self.element("<pre><code>", command, "</code></pre>");
            }
            self.markup("</li>\n");
        }
        self.markup("</ol>\n");
    }

    fn picture(&mut self, picture: &Picture, time: &str) {
        for grid in picture.grids.iter().take(GRIDS) {
            self.grid(grid);
        }
        if let Some(more) = picture
            .grids
            .len()
            .checked_sub(GRIDS)
            .filter(|more| *more > 0)
        {
            self.element("<p>", &format!("and {more} more grids"), "</p>\n");
        }
        self.versions(picture);
        self.timeline(picture, time);
    }

    fn grid(&mut self, grid: &Grid) {
        let mut rows: BTreeMap<&str, Sum> = BTreeMap::new();
        let mut columns: BTreeMap<&Column, Sum> = BTreeMap::new();
        for (row, cells) in &grid.cells {
            for (column, cell) in cells {
                let of_the_key = matches!(column, Column::Version(_));
                for sum in [
                    rows.entry(row).or_default(),
                    columns.entry(column).or_default(),
                ] {
                    sum.of_the_key |= of_the_key;
                    let objects = cell
                        .values()
                        .copied()
                        .fold(sum.objects, u64::saturating_add);
                    sum.objects = objects;
                }
            }
        }
        let shown_rows = largest(&rows, ROWS);
        let shown_columns = largest(&columns, COLUMNS);

        self.element(
            "<section>\n<h2>",
            &grid.title,
            "</h2>\n<div>\n<table class=\"grid\">\n",
        );
        self.element("<thead><tr><th scope=\"col\">", grid.of, "</th>");
        for column in &shown_columns {
            self.element("<th scope=\"col\">", &column.name(), "</th>");
        }
        self.markup("</tr></thead>\n<tbody>\n");
        for row in &shown_rows {
            self.element("<tr><th scope=\"row\">", row, "</th>");
            let cells = grid.cells.get(*row);
            for column in &shown_columns {
                self.markup("<td>");
                self.cell(cells.and_then(|cells| cells.get(*column)));
                self.markup("</td>");
            }
            self.markup("</tr>\n");
        }
        self.markup("</tbody>\n");
        if rows.values().any(|sum| sum.objects > 0) {
            self.markup("<tfoot><tr><th scope=\"row\">all</th>");
            for column in &shown_columns {
                let objects = columns.get(column).map_or(0, |sum| sum.objects);
                self.element("<td>", &objects.to_string(), "</td>");
            }
            self.markup("</tr></tfoot>\n");
        }
        self.markup("</table>\n</div>\n");
        for (all, shown, noun) in [
            (rows.len(), shown_rows.len(), "rows"),
            (columns.len(), shown_columns.len(), "columns"),
        ] {
            if all > shown {
                let more = all.saturating_sub(shown);
                let text = format!("and {more} more {noun}");
                self.element("<p>", &text, "</p>\n");
            }
        }
        self.markup("</section>\n");
    }

    fn cell(&mut self, cell: Option<&Cell>) {
        let Some(cell) = cell else {
            return self.markup("<span class=\"muted\">-</span>");
        };
        for (condition, objects) in cell {
            self.markup(match condition.rating {
                Rating::Good => "<span class=\"good\">",
                Rating::Odd => "<span class=\"odd\">",
                Rating::Bad => "<span class=\"bad\">",
                Rating::Plain => "<span>",
            });
            if *objects > 0 {
                self.text(&format!("{objects} "));
            }
            self.element("", condition.word, "</span>");
        }
    }

    fn versions(&mut self, picture: &Picture) {
        if picture.versions.is_empty() {
            return;
        }
        self.markup("<section>\n<h2>Needs of each key version</h2>\n<div>\n<table>\n<thead><tr>");
        for name in ["version", "created", "needs"] {
            self.element("<th scope=\"col\">", name, "</th>");
        }
        self.markup("</tr></thead>\n<tbody>\n");
        // Versions with a creation time are of the key; others may be claims of etcd alone.
        let (of_the_key, claimed): (Vec<_>, Vec<_>) = picture
            .versions
            .iter()
            .rev()
            .partition(|(_, version)| version.created.is_some());
        let shown = of_the_key.into_iter().chain(claimed).take(ROWS);
        let shown: BTreeMap<_, _> = shown.collect();
        let left_out = picture.versions.len().saturating_sub(shown.len());
        for (number, version) in shown {
            self.element("<tr><th scope=\"row\">", &number.to_string(), "</th>");
            let created = version.created.map_or_else(|| "unknown".to_owned(), utc);
            self.element("<td>", &created, "</td><td>");
            for need in version.needs.iter().take(ROWS) {
                self.element("<span>", need, "</span>");
            }
            self.markup("</td></tr>\n");
        }
        self.markup("</tbody>\n</table>\n</div>\n");
        if left_out > 0 {
            self.element("<p>", &format!("and {left_out} more versions"), "</p>\n");
        }
        self.markup("</section>\n");
    }

    fn timeline(&mut self, picture: &Picture, now: &str) {
        if picture.events.is_empty() {
            return;
        }
        let second = now.parse::<Timestamp>().map_or(0, Timestamp::as_second);
        let mut events = picture.events.clone();
        let at = events.entry(u64::try_from(second).unwrap_or_default());
        at.or_default().push("this result".to_owned());
        self.markup("<section>\n<h2>Timeline</h2>\n");
        let left_out = events.len().saturating_sub(ROWS);
        if left_out > 0 {
            self.element(
                "<p>",
                &format!("{left_out} earlier times left out"),
                "</p>\n",
            );
        }
        self.markup("<ol class=\"time\">\n");
        for (second, events) in events.iter().skip(left_out) {
            self.element("<li><time>", &utc(*second), "</time> ");
            self.element("", &events.join("; "), "</li>\n");
        }
        self.markup("</ol>\n</section>\n");
    }

    fn checks(&mut self, checks: &[CheckResult]) {
        if checks.is_empty() {
            return;
        }
        self.markup("<section>\n<h2>Checks</h2>\n<div>\n<table>\n<thead><tr>");
        for name in ["check", "status", "question", "finding"] {
            self.element("<th scope=\"col\">", name, "</th>");
        }
        self.markup("</tr></thead>\n<tbody>\n");
        for check in checks {
            self.element("<tr><th scope=\"row\">", check.id, "</th>");
            self.markup(match check.status {
                Status::Pass => "<td class=\"good\">",
                Status::Warn => "<td class=\"odd\">",
                Status::Fail => "<td class=\"bad\">",
                Status::Skip => "<td class=\"muted\">",
            });
            self.element("", check.status.as_str(), "</td>");
            self.element("<td>", check.title, "</td><td>");
            if let Some(message) = &check.message {
                self.element("<span>", message, "</span>");
            }
            if check.status != Status::Pass {
                if let Some(impact) = &check.impact {
                    self.element("<span>", impact, "</span>");
                }
                if check.steps().next().is_some() {
                    self.steps(check.steps());
                }
            }
            self.markup("</td></tr>\n");
        }
        self.markup("</tbody>\n</table>\n</div>\n</section>\n");
    }

    fn table(&mut self, table: &Table) {
        self.element(
            "<div>\n<table>\n<caption>",
            &table.title,
            "</caption>\n<thead><tr>",
        );
        for name in &table.columns {
            self.element("<th scope=\"col\">", name, "</th>");
        }
        self.markup("</tr></thead>\n<tbody>\n");
        for row in &table.rows {
            let mut cells = row.iter();
            let first = cells.next().map_or("", String::as_str);
            self.element("<tr><th scope=\"row\">", first, "</th>");
            cells.for_each(|cell| self.element("<td>", cell, "</td>"));
            self.markup("</tr>\n");
        }
        self.markup("</tbody>\n</table>\n</div>\n");
        if let Some(sentence) = &table.left_out {
            self.element("<p>", sentence, "</p>\n");
        }
    }
}

impl Column {
    fn name(&self) -> String {
        match self {
            Self::Version(version) => format!("version {version}"),
            Self::Other(name) => name.clone(),
        }
    }
}

/// Rank of a row or column: those of the key come first, then those with most objects.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Sum {
    of_the_key: bool,
    objects: u64,
}

/// The highest ranks, in the order of the keys.
fn largest<K: Ord + Copy>(sums: &BTreeMap<K, Sum>, most: usize) -> BTreeSet<K> {
    let mut ranked: Vec<_> = sums.iter().collect();
    ranked.sort_by_key(|(_, sum)| Reverse(*sum));
    ranked.into_iter().take(most).map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::{collection::vec, prelude::*, sample::select};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::{
        advice::{DataImpact, NextStep},
        report::{outcome::Nothing, picture::Condition},
    };

    const LOST: Condition = Condition::new(Rating::Bad, "lost");

    /// A result with this text wherever a result takes one.
    fn outcome(text: &str) -> Outcome {
        let mut outcome = Outcome::new("scan-etcd", UNIX_EPOCH, Nothing {});
        outcome.add_checks([
            CheckResult::pass("a.first", "First").message(text),
            CheckResult::fail("b.second", "Second", text)
                .impact(text)
                .remediation(text),
        ]);
        outcome.conclude("damaged", Exit::CheckFailed, text);
        outcome.set_found(text);
        outcome.set_data(DataImpact::AtRisk, text);
        outcome.add_step(NextStep::run(text, text));
        outcome.add_warnings([text]);
        outcome.add_limitations([text]);
        let mut table = Table::new(text, ["one", "two"]);
        table.row([text, text]);
        table.left_out(text);
        outcome.add_table(table);
        let mut grid = Grid::new(text, "resource");
        grid.add(text, Column::Version(2), LOST, 12);
        grid.add(text, Column::Other(text.to_owned()), LOST, 3);
        outcome.picture.add_grid(grid);
        outcome.picture.add_version(2, Some(86_400));
        outcome.picture.add_need(2, text);
        outcome.picture.add_event(7, text);
        outcome
    }

    fn tags(page: &str) -> Vec<&str> {
        let parts = page.split('<').skip(1);
        parts.map(|rest| rest.split('>').next().unwrap()).collect()
    }

    fn hostile() -> impl Strategy<Value = String> {
        let bytes = vec(any::<u8>(), 0..20);
        let bytes = bytes.prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let marks = [
            "<", ">", "&", "\"", "'", "/", "\0", "\r", "\u{85}", "\u{202e}", "</td>", "</title>",
            "</style>", "<script>", "<!--", "-->", "]]>", "&lt", "&#60;", " onload=",
        ];
        vec(
            prop_oneof![bytes, select(marks.to_vec()).prop_map(str::to_owned)],
            0..8,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_node(text in hostile()) {
            let page = outcome(&text).html();
            let plain = outcome("x").html();
            prop_assert_eq!(tags(&page), tags(&plain));
            for (at, _) in page.match_indices('&') {
                let entity = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
                prop_assert!(entity.iter().any(|entity| page[at..].starts_with(entity)));
            }
            prop_assert!(!page.contains(is_obeyed));
        }
    }

    #[test]
    fn a_page_shows_verdict_grid_versions_timeline_and_commands() {
        let mut outcome = outcome("a <b>");
        outcome.add_step(NextStep::run("look", "cat 'x' && ls"));
        let page = outcome.html();
        for part in [
            "<title>scan-etcd: damaged</title>",
            "<h1>scan-etcd: damaged</h1>",
            "<p>a &lt;b&gt;</p>",
            "<th scope=\"col\">version 2</th>",
            "<th scope=\"row\">a &lt;b&gt;</th><td><span class=\"bad\">12 lost</span></td>",
            "<tfoot><tr><th scope=\"row\">all</th><td>12</td><td>3</td></tr></tfoot>",
            "<th scope=\"row\">2</th><td>1970-01-02T00:00:00Z</td><td><span>a &lt;b&gt;</span>",
            "<time>1970-01-01T00:00:00Z</time> this result",
            "<time>1970-01-02T00:00:00Z</time> version 2 of the key created",
            "<pre><code>cat &#39;x&#39; &amp;&amp; ls</code></pre>",
            "<td class=\"bad\">fail</td>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }

    #[test]
    fn a_grid_is_limited_and_keeps_resources_of_the_key() {
        let mut grid = Grid::new("objects", "resource");
        for number in 0..500 {
            let name = format!("other-{number}");
            grid.add(&name, Column::Other(name.clone()), LOST, 1000);
        }
        grid.add("secrets", Column::Version(1), LOST, 1);
        let mut page = Page::default();
        page.grid(&grid);
        let count = |tag| page.0.matches(tag).count();
        assert_eq!(count("<th scope=\"row\">"), ROWS + 1);
        assert_eq!(count("<th scope=\"col\">"), COLUMNS + 1);
        assert!(page.0.contains("secrets") && page.0.contains("version 1<"));
        assert!(page.0.contains("and 401 more rows"), "{}", page.0);
        assert!(page.0.contains("and 471 more columns"), "{}", page.0);

        for number in 0..20_000 {
            grid.add(&format!("more-{number}"), Column::Version(2), LOST, 1);
        }
        let mut page = Page::default();
        page.grid(&grid);
        assert!(grid.cells.len() <= 10_001);
        assert!(
            page.0.contains("<th scope=\"col\">others</th>"),
            "{}",
            page.0
        );
    }

    #[test]
    fn the_policy_permits_the_style_sheet_and_nothing_else() {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!("content=\"default-src 'none'; style-src 'sha256-{hash}'; ");
        assert!(HEAD.contains(&policy), "{policy}");
        let page = outcome("x").html();
        for foreign in [
            "<script", "<link", "<img", "url(", "@import", "http://", "https://", "style=",
        ] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn text_has_contrast_in_each_scheme() {
        let luminance = |colour: &str| {
            let part = |at: usize| {
                let value = u8::from_str_radix(&colour[at..at + 2], 16).unwrap();
                let value = f64::from(value) / 255.0;
                match value <= 0.03928 {
                    true => value / 12.92,
                    false => ((value + 0.055) / 1.055).powf(2.4),
                }
            };
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
        };
        let schemes: Vec<_> = STYLE.split("--page: ").skip(1).collect();
        assert_eq!(schemes.len(), 3, "light, dark, print");
        for scheme in schemes {
            let of = |name: &str| {
                let rest = match scheme.split_once(&format!("--{name}: ")) {
                    Some((_, rest)) => rest,
                    None => scheme,
                };
                luminance(&rest[..7])
            };
            for text in ["text", "muted", "good", "odd", "bad"] {
                for ground in ["page", "panel"] {
                    let (one, other) = (of(text), of(ground));
                    let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                    assert!(contrast >= 4.5, "{text} on {ground}: {contrast:.2}");
                }
            }
        }
    }
}
