//! Limits for ratios and counts, kept in a file, to notice regressions on any machine.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use crate::report::{Report, Row, Target};

/// Limits by the names of rows.
pub(crate) struct Budget(BTreeMap<String, Limit>);

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Budget {
    /// Reads a JSON object: the name of a row, and `{"atMost": N}` or `{"atLeast": N}` for its ratio,
    /// or for its value if it counts.
    ///
    /// # Errors
    /// A sentence, if the file is unusable.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| unusable(&error))?;
        let limits = serde_json::from_str(&text).map_err(|error| unusable(&error))?;
        Ok(Self(limits))
    }

    /// A line for each limit that a row exceeds, and for each limit without a row to compare.
    pub(crate) fn exceeded(&self, report: &Report) -> Vec<String> {
        let rows = report.rows();
        let judged = self.0.iter().filter_map(|(name, limit)| {
            let row = rows.iter().find(|row| row.name_and_unit().0 == name);
            let Some(figure) = row.and_then(Row::comparable) else {
                return Some(format!("{name}: no ratio and no count in this run"));
            };
            let target = match *limit {
                Limit::AtMost(limit) => Target::AtMost(limit),
                Limit::AtLeast(limit) => Target::AtLeast(limit),
            };
            (!target.allows(figure)).then(|| format!("{name}: {figure:.3}, budget {target}"))
        });
        judged.collect()
    }
}
