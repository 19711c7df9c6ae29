//! Rows of a result, and their text in aligned columns.

use std::io::{self, Write};

use tabwriter::TabWriter;

/// A title, the names of the columns, and rows of as many cells.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
    pub(super) left_out: Option<String>,
}

impl Table {
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
        let cells = cells.into_iter().map(|cell| {
            let cell: String = cell.into();
            cell.replace(['\n', '\t'], " ")
        });
        self.rows.push(cells.collect());
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
        writeln!(out, "{}", self.title)?;
        let mut aligned = TabWriter::new(Vec::new()).minwidth(2).padding(2);
        let head: Vec<_> = self
            .columns
            .iter()
            .map(|name| name.to_uppercase())
            .collect();
        writeln!(aligned, "  {}", head.join("\t"))?;
        for row in &self.rows {
            writeln!(aligned, "  {}", row.join("\t"))?;
        }
        let aligned = aligned
            .into_inner()
            .map_err(|error| io::Error::other(error.to_string()))?;
        for line in String::from_utf8_lossy(&aligned).lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        match &self.left_out {
            Some(sentence) => writeln!(out, "  {sentence}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
