//! Rows of a result, and their text in aligned columns.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    io::{self, Write},
    path::PathBuf,
};

use tabwriter::TabWriter;

use super::printable;

/// A title, the names of the columns, and rows of as many cells.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
    pub(super) left_out: Option<String>,
}

/// A table under construction, column by column.
#[derive(Debug)]
pub struct Rows<T> {
    table: Table,
    rows: Vec<T>,
}

/// A value in a cell. An absent one leaves the cell empty.
pub trait Cell {
    fn text(&self) -> String;
}

impl Table {
    /// A table with a row for each of `rows`.
    #[must_use]
    pub fn of<T: Copy>(title: impl Into<String>, rows: impl IntoIterator<Item = T>) -> Rows<T> {
        let rows: Vec<T> = rows.into_iter().collect();
        let mut table = Self::new(title, []);
        table.rows.resize_with(rows.len(), Vec::new);
        Rows { table, rows }
    }

    #[must_use]
    pub fn new(title: impl Into<String>, columns: impl Into<Vec<&'static str>>) -> Self {
        Self {
            title: title.into(),
            columns: columns.into(),
            rows: Vec::new(),
            left_out: None,
        }
    }

    /// Adds a row; line feeds and tabs in a cell become spaces.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells = cells.into_iter().map(|cell| one_line(&cell.into()));
        self.rows.push(cells.collect());
    }

    /// Adds a row of a name and each of these values: none for `None`.
    pub fn facts(&mut self, name: &str, values: impl IntoIterator<Item = impl Display>) {
        for value in values {
            self.row([name, &value.to_string()]);
        }
    }

    /// A sentence on rows that are not shown.
    pub fn left_out(&mut self, sentence: impl Into<String>) {
        self.left_out = Some(sentence.into());
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", printable(&self.title))?;
        let mut aligned = TabWriter::new(Vec::new()).minwidth(2).padding(2);
        let head: Vec<_> = self
            .columns
            .iter()
            .map(|name| name.to_uppercase())
            .collect();
        writeln!(aligned, "  {}", head.join("\t"))?;
        for row in &self.rows {
            writeln!(aligned, "  {}", printable(&row.join("\t")))?;
        }
        let aligned = aligned
            .into_inner()
            .map_err(|error| io::Error::other(error.to_string()))?;
        for line in String::from_utf8_lossy(&aligned).lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        match &self.left_out {
            Some(sentence) => writeln!(out, "  {}", printable(sentence)),
            None => Ok(()),
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write(&mut text).map_err(|_| fmt::Error)?;
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

fn one_line(cell: &str) -> String {
    cell.replace(['\n', '\t'], " ")
}

impl<T: Copy> Rows<T> {
    #[must_use]
    pub fn column<C: Cell>(mut self, name: &'static str, cell: impl Fn(T) -> C) -> Self {
        self.table.columns.push(name);
        for (cells, row) in self.table.rows.iter_mut().zip(&self.rows) {
            cells.push(one_line(&cell(*row).text()));
        }
        self
    }

    #[must_use]
    pub fn table(self) -> Table {
        self.table
    }
}

impl<C: Cell + ?Sized> Cell for &C {
    fn text(&self) -> String {
        (**self).text()
    }
}

impl<C: Cell> Cell for Option<C> {
    fn text(&self) -> String {
        self.as_ref().map(Cell::text).unwrap_or_default()
    }
}

/// Sums by name: `secrets 2, configmaps 1`.
impl Cell for BTreeMap<String, u64> {
    fn text(&self) -> String {
        let sums = self.iter().map(|(name, sum)| format!("{name} {sum}"));
        sums.collect::<Vec<_>>().join(", ")
    }
}

impl Cell for Vec<String> {
    fn text(&self) -> String {
        self.join(", ")
    }
}

impl Cell for PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
}

macro_rules! displayed {
    ($($kind:ty),*) => {
        $(impl Cell for $kind {
            fn text(&self) -> String {
                self.to_string()
            }
        })*
    };
}

displayed!(str, String, u64, i64, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_made_from_rows() {
        let rows = [(1_u64, Some("a\tb")), (2, None)];
        let table = Table::of("rows", rows)
            .column("number", |(number, _)| number)
            .column("word", |(_, word)| word)
            .table();
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "rows\n  NUMBER  WORD\n  1       a b\n  2\n"
        );
    }

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let mut table = Table::new("versions", ["version", "objects"]);
        table.row(["1", "12"]);
        table.row(["2 (active)", ""]);
        table.left_out("3 rows more");
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "versions\n  VERSION     OBJECTS\n  1           12\n  2 (active)\n  3 rows more\n"
        );
    }
}
