//! The picture of a result, for the page alone: objects by row and key version, the need of each
//! version, and events in order of time. Its facts are also in the members and tables of the result.

use std::collections::BTreeMap;

/// Most cells of a grid: writers of etcd can create any number of resources.
const CELLS: usize = 10_000;
const OTHERS: &str = "others";

/// Grids, versions and events; any of them may be empty.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    pub(super) grids: Vec<Grid>,
    pub(super) versions: BTreeMap<u64, Version>,
    /// By Unix second.
    pub(super) events: BTreeMap<u64, Vec<String>>,
}

/// Counts by row and column.
#[derive(Debug, Clone)]
pub struct Grid {
    pub(super) title: String,
    /// Heading of the first column.
    pub(super) of: &'static str,
    pub(super) cells: BTreeMap<String, BTreeMap<Column, Cell>>,
    kept: usize,
}

/// Objects by their condition. A condition without objects, such as that of a node, has a count of
/// zero and is shown as a word.
pub(super) type Cell = BTreeMap<Condition, u64>;

/// A key version, or another protection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Version(u64),
    Other(String),
}

/// Condition of objects, as a word and as its rating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    pub rating: Rating,
    pub word: &'static str,
}

/// Colour and mark, from the worst on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rating {
    Bad,
    Odd,
    Good,
    Plain,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Version {
    pub(super) created: Option<u64>,
    pub(super) needs: Vec<String>,
}

impl Picture {
    /// Adds a grid; an empty one is left out.
    pub fn add_grid(&mut self, grid: Grid) {
        if !grid.cells.is_empty() {
            self.grids.push(grid);
        }
    }

    /// Adds a version with its creation second, which is an event too. Of several seconds the first
    /// one is kept.
    pub fn add_version(&mut self, version: u64, created: Option<u64>) {
        let row = self.versions.entry(version).or_default();
        let Some(second) = created.filter(|_| row.created.is_none()) else {
            return;
        };
        row.created = Some(second);
        self.add_event(second, format!("version {version} of the key created"));
    }

    /// Adds a need of a version, after those before.
    pub fn add_need(&mut self, version: u64, need: impl Into<String>) {
        let needs = &mut self.versions.entry(version).or_default().needs;
        needs.push(need.into());
    }

    /// Adds an event at this Unix second.
    pub fn add_event(&mut self, second: u64, event: impl Into<String>) {
        self.events.entry(second).or_default().push(event.into());
    }

    /// Adds the content of another picture.
    pub fn extend(&mut self, other: &Self) {
        self.grids.extend(other.grids.iter().cloned());
        for (version, row) in &other.versions {
            let own = self.versions.entry(*version).or_default();
            own.created = own.created.or(row.created);
            own.needs.extend(row.needs.iter().cloned());
        }
        for (second, events) in &other.events {
            let own = self.events.entry(*second).or_default();
            own.extend(events.iter().cloned());
        }
    }
}

impl Grid {
    /// An empty grid. `of` is the heading of its rows.
    #[must_use]
    pub fn new(title: impl Into<String>, of: &'static str) -> Self {
        Self {
            title: title.into(),
            of,
            cells: BTreeMap::new(),
            kept: 0,
        }
    }

    /// Adds objects to a cell, or to the one of all others if the grid is full.
    pub fn add(&mut self, row: &str, column: Column, condition: Condition, objects: u64) {
        let cells = self.cells.get(row);
        let is_new = cells.is_none_or(|cells| !cells.contains_key(&column));
        let (row, column) = match is_new && self.kept >= CELLS {
            true => (OTHERS, Column::Other(OTHERS.to_owned())),
            false => (row, column),
        };
        self.kept = self.kept.saturating_add(is_new.into());
        let cells = self.cells.entry(row.to_owned()).or_default();
        let sum = cells.entry(column).or_default().entry(condition);
        let sum = sum.or_default();
        *sum = sum.saturating_add(objects);
    }
}

impl Condition {
    #[must_use]
    pub const fn new(rating: Rating, word: &'static str) -> Self {
        Self { rating, word }
    }
}
